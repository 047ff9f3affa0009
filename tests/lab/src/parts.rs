//! The parts that a lab is started from: made once, kept in the cache, looked over before each use.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kld_build::appliance::{Appliance, Design, Disk, Disks, Pipes, Plug, Qemu};
use kld_build::cache::UNUSED;
use kld_build::modules::Wanted;
use kld_build::{Agent, Cache, Image, Tree};
use kld_core::ui::Ui;
use kld_core::{Change, Error, Result};

use crate::recipe;

const SETUP: &str = include_str!("setup.sh");
const IDENTIFY: &str = include_str!("identify.sh");

/// A script that takes longer hangs: setting a lab up takes a minute, and several on a busy machine.
const PATIENCE: Duration = Duration::from_secs(480);

/// What every lab starts from.
#[derive(Debug, Clone)]
pub struct Parts {
    design: Design,
    state: PathBuf,
}

impl Parts {
    /// The parts; what is missing or damaged is made, which takes about fifteen minutes from nothing.
    pub fn ensure(cache: &Cache, ui: &Ui) -> Result<Parts> {
        if let Some(parts) = Parts::find(cache)? {
            return Ok(parts);
        }
        let step = |what: &str, start: Instant| {
            ui.note(format!("{what} took {:.1} s", start.elapsed().as_secs_f64()));
        };
        let recipe = recipe::tree();
        if recipe.find(cache).is_none() {
            ui.note(format!("making the lab's root tree in {} (minutes, once)", cache.folder().display()));
        }
        let start = Instant::now();
        let tree = noted(recipe.ensure(cache)?, || step("the root tree", start));
        let wanted = Wanted::by(&tree, recipe::SUITE)?;
        if wanted.find(cache).is_none() {
            ui.note(format!("compiling OpenZFS {} for {} (minutes, once)", wanted.zfs, wanted.kernel));
        }
        let start = Instant::now();
        let modules = noted(wanted.ensure(cache)?, || step("OpenZFS's modules", start));
        let start = Instant::now();
        let image = noted(Image::ensure(cache, &tree, Some(&modules), false)?, || step("the image", start));
        let design = design(&tree, image);
        let start = Instant::now();
        let state = noted(cache.ensure(&state_name(&design)?, |folder| prepare(&design, folder))?, || {
            step("booting, setting up and saving a lab", start);
        });
        for name in cache.prune(UNUSED)? {
            ui.note(format!("removed {name}, which nobody has used for two weeks"));
        }
        Ok(Parts { design, state })
    }

    /// Reads every byte of the parts that are there, and removes what is damaged.
    pub fn check(cache: &Cache, ui: &Ui) -> Result<()> {
        let check = |name: &str, there: bool| match there && !cache.check(name)? {
            true => {
                ui.note(format!("{name} was damaged, and is removed"));
                Ok(false)
            }
            false => Ok(there),
        };
        // Each is found by those before it.
        let recipe = recipe::tree();
        let Some(tree) = recipe.find(cache) else { return Ok(()) };
        if !check(&recipe.key(), true)? {
            return Ok(());
        }
        let wanted = Wanted::by(&tree, recipe::SUITE)?;
        let modules = wanted.find(cache);
        if !check(&wanted.key(), modules.is_some())? {
            return Ok(());
        }
        let image = Image::find(cache, &tree, modules.as_ref(), false)?;
        if !check(&Image::key(&tree, modules.as_ref(), false)?, image.is_some())? {
            return Ok(());
        }
        let Some(image) = image else { return Ok(()) };
        let state = state_name(&design(&tree, image))?;
        check(&state, cache.find(&state).is_some()).map(drop)
    }

    /// The parts, where all are made and whole.
    pub fn find(cache: &Cache) -> Result<Option<Parts>> {
        let Some(tree) = recipe::tree().find(cache) else { return Ok(None) };
        let Some(modules) = Wanted::by(&tree, recipe::SUITE)?.find(cache) else { return Ok(None) };
        let Some(image) = Image::find(cache, &tree, Some(&modules), false)? else { return Ok(None) };
        let design = design(&tree, image);
        Ok(cache.find(&state_name(&design)?).map(|state| Parts { design, state }))
    }

    /// Starts a lab, the `number`th of those that are on one network.
    pub fn start(&self, name: &str, number: u8, plugs: &[Plug]) -> Result<Appliance> {
        let start = || {
            let lab = self.design.restore(&self.state, plugs)?;
            script(&lab.agent(), IDENTIFY, &[name, &number.to_string()])?;
            Ok(lab)
        };
        // A guest may hang, on a busy machine that translates its instructions.
        start().or_else(|_| start())
    }

    /// Goes on with a lab whose state was saved in this folder, with its disks as they were then.
    pub fn resume(&self, state: &Path, plugs: &[Plug], disks: Disks) -> Result<Appliance> {
        self.design.restore_on(state, plugs, disks)
    }

    /// A lab's disks.
    pub fn disks(&self) -> &[Disk] {
        &self.design.shape.disks
    }

    /// Where the parts are: kernel, initramfs and root image, and the saved state.
    pub fn files(&self) -> Vec<PathBuf> {
        let image = &self.design.image;
        let root = image.root.iter().cloned();
        [image.kernel.clone(), image.initramfs.clone()]
            .into_iter()
            .chain(root)
            .chain([self.state.join("memory")])
            .collect()
    }
}

fn noted<T>(made: Change<T>, note: impl FnOnce()) -> T {
    if made.is_changed() {
        note();
    }
    made.into_inner()
}

fn state_name(design: &Design) -> Result<String> {
    let digest = kld_build::Digest::of([&design.key()?, SETUP]);
    Ok(format!("lab-state-{digest}"))
}

fn design(tree: &Tree, image: Image) -> Design {
    Design { qemu: Qemu::of(tree), image, shape: recipe::shape(), patience: Design::PATIENCE }
}

fn prepare(design: &Design, folder: &Path) -> Result<()> {
    let set_up = || {
        let lab = design.boot(&[])?;
        script(&lab.agent(), SETUP, &[])?;
        Ok(lab)
    };
    // As at a start: what hung once goes through the next time.
    set_up().or_else(|_: Error| set_up())?.save(folder)
}

/// Runs a script of bash in a guest.
fn script(agent: &Agent, text: &'static str, arguments: &[&str]) -> Result<()> {
    let agent = agent.clone().limited(PATIENCE);
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let pipes = Pipes { stdin: Box::new(text.as_bytes()), stdout: &mut stdout, stderr: &mut stderr };
    let command = [&["bash", "-s", "--"], arguments].concat();
    match agent.stream(&command, pipes)? {
        0 => Ok(()),
        code => {
            let said = String::from_utf8_lossy(&stderr);
            let last = said.lines().rev().find(|line| !line.trim().is_empty());
            let code = format!("exit code {code}");
            Err(Error::failed("cannot set up the lab", last.unwrap_or(&code)))
        }
    }
}
