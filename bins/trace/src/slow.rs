//! What tools have in common that tell what took long.

use std::time::Duration;

use clap::{Arg, ArgMatches};

/// The argument for how long something takes at least that is told.
pub fn least() -> Arg {
    Arg::new("min_ms")
        .value_name("MILLISECONDS")
        .value_parser(parse)
        .default_value("10")
        .help("Leave out what took less; 0 tells all")
}

/// Milliseconds, in microseconds.
fn parse(text: &str) -> Result<u32, String> {
    let number: f64 = text.parse().map_err(|_| "it is no number".to_string())?;
    let micros = number * 1e3;
    match (0.0..=f64::from(u32::MAX - 1)).contains(&micros) {
        true => Ok(micros.round() as u32),
        false => Err("it is no length of time, or more than an hour".into()),
    }
}

/// What [`least`] says.
pub fn microseconds(matches: &ArgMatches) -> u32 {
    matches.get_one::<u32>("min_ms").copied().unwrap_or_default()
}

/// A time as such tools write it.
pub fn milliseconds(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_may_have_parts_and_an_end() {
        assert_eq!([parse("10"), parse("0.25"), parse("0")], [Ok(10_000), Ok(250), Ok(0)]);
        assert!(["-1", "x", "nan", "inf", "1e9", ""].iter().all(|text| parse(text).is_err()));
    }
}
