//! `cargo xtask`: setting a machine up, and showing, testing and measuring kld on it.
mod bench;
mod build;

fn main() {
    let args: Vec<String> = std::env::args().skip(2).collect();
    let ui = kld_core::ui::Ui { json: args.iter().any(|a| a == "--json"), quiet: false };
    let names: Vec<String> = args.into_iter().filter(|a| a != "--json").collect();
    kld_core::tool::report(&ui, bench::main(&ui, &names));
}
