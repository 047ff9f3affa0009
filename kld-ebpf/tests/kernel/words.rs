//! A program of one's own that speaks while it is developed.

use std::sync::Mutex;

use kld_ebpf::probe::{Hook, Kill, Known, Probe, REGISTERS};
use kld_ebpf::{Filter, Tracer};

use crate::common::{Generator, cannot_trace, start};

/// What a caller of kld-ebpf writes for a program of its own: programs/src/bin/words.rs.
struct Speaking;

impl Probe for Speaking {
    type Event = ();
    const NAME: &'static str = "words";
    const OBJECT: &'static [u8] = include_bytes!("../../objects/words.o");
    const HOOKS: &'static [Hook] = &[Hook::new("ended", "sys_exit")];
    const KNOWN: &'static [&'static [Known]] = &[REGISTERS, &[Known::call("SYS_KILL", libc::SYS_kill)]];

    fn decode(_: &[u8]) -> Option<()> {
        None
    }
}

#[derive(Default)]
struct Heard(Mutex<Vec<(log::Level, String)>>);

impl log::Log for &Heard {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        self.0.lock().unwrap().push((record.level(), record.args().to_string()));
    }

    fn flush(&self) {}
}

#[test]
fn a_program_says_what_it_sees_and_its_maker_hears_it() {
    if cannot_trace() {
        return;
    }
    // SAFETY: signal 0 asks and does nothing.
    let generator = Generator::new(|| unsafe {
        libc::kill(0, 0);
        libc::kill(1 << 22, 0);
    });
    let heard = Heard::default();
    // It is no tool that a table of them should have.
    let tracer = Tracer::<Speaking>::start(&Filter::pid(generator.pid)).unwrap();
    let mut words = tracer.running().words(&heard).unwrap();
    generator.go();
    words.flush();
    let said = heard.0.into_inner().unwrap();
    let said: Vec<_> = said.iter().map(|(level, words)| (*level, words.as_str())).collect();
    use log::Level::{Debug, Info};
    assert_eq!(
        said,
        [
            (Info, "signal 0 to 0"),
            (Debug, "it ended with 0"),
            (Info, "signal 0 to 4194304"),
            (Debug, "it ended with -3"),
        ]
    );
}

#[test]
fn of_a_program_that_does_not_speak_one_is_told_so() {
    if cannot_trace() {
        return;
    }
    let tracer = start::<Kill>(&Filter::pid(1));
    let error = tracer.running().words(&Heard::default()).unwrap_err();
    assert_eq!(error.to_string(), "cannot read what killsnoop says: AYA_LOGS not found");
}
