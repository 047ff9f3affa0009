//! The words between the host and the agent in the guest. A frame is a kind and a payload in COBS (consistent overhead
//! byte stuffing), closed by a zero byte, so that either side finds its feet again after the other one was cut off.
//!
//! The agent is compiled from this file as well: it knows std only.

/// "I begin anew": a number of the host's choosing, which the agent gives back. It ends a command that still runs.
pub const HELLO: u8 = 1;
/// A command: its argument vector, each argument followed by a zero byte.
pub const RUN: u8 = 2;
/// Bytes of the command's standard input; none at its end.
pub const STDIN: u8 = 3;
/// Bytes of the command's standard output.
pub const STDOUT: u8 = 4;
/// Bytes of the command's standard error.
pub const STDERR: u8 = 5;
/// How many bytes of standard input the command has taken.
pub const TAKEN: u8 = 6;
/// The command's exit code, 128 more than the signal where one ended it.
pub const EXIT: u8 = 7;
/// The command could not be started; the payload says why.
pub const REFUSED: u8 = 8;

/// The largest payload that is sent.
pub const CHUNK: usize = 32 << 10;

/// How much of a command's standard input may be under way.
pub const WINDOW: usize = 8 * CHUNK;

/// A longer frame is noise.
const LONGEST: usize = 2 * CHUNK;

/// A frame's bytes.
pub fn encode(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + payload.len() / 254 + 4);
    // Each run of up to 254 bytes that are not zero is led by its length.
    let mut lead = out.len();
    out.push(1);
    for byte in std::iter::once(&kind).chain(payload) {
        if *byte != 0 {
            out.push(*byte);
            out[lead] += 1;
        }
        if *byte == 0 || out[lead] == 255 {
            lead = out.len();
            out.push(1);
        }
    }
    out.push(0);
    out
}

/// Takes frames out of a stream of bytes. What is no frame is skipped.
#[derive(Debug, Default)]
pub struct Decoder {
    held: Vec<u8>,
}

impl Decoder {
    /// Takes in `bytes`, and gives each whole frame's kind and payload.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let mut frames = Vec::new();
        let mut pieces = bytes.split(|byte| *byte == 0).peekable();
        while let Some(piece) = pieces.next() {
            if self.held.len() + piece.len() > LONGEST {
                self.held.clear();
            } else {
                self.held.extend_from_slice(piece);
            }
            if pieces.peek().is_some() {
                frames.extend(unstuff(&self.held));
                self.held.clear();
            }
        }
        frames
    }
}

fn unstuff(mut stuffed: &[u8]) -> Option<(u8, Vec<u8>)> {
    let mut frame = Vec::with_capacity(stuffed.len());
    while let Some((lead, rest)) = stuffed.split_first() {
        let (run, rest) = rest.split_at_checked(usize::from(*lead).checked_sub(1)?)?;
        frame.extend_from_slice(run);
        if *lead < 255 && !rest.is_empty() {
            frame.push(0);
        }
        stuffed = rest;
    }
    let kind = *frame.first()?;
    frame.remove(0);
    Some((kind, frame))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_they_are_cut(
            frames in prop::collection::vec((1u8.., prop::collection::vec(any::<u8>(), 0..1200)), 0..5),
            cut in 1usize..300,
        ) {
            let bytes: Vec<u8> = frames.iter().flat_map(|(kind, payload)| encode(*kind, payload)).collect();
            let mut decoder = Decoder::default();
            let found: Vec<_> = bytes.chunks(cut).flat_map(|chunk| decoder.feed(chunk)).collect();
            prop_assert_eq!(found, frames);
        }

        #[test]
        fn after_noise_and_a_zero_byte_the_next_frame_is_found(noise: Vec<u8>, payload: Vec<u8>) {
            let mut decoder = Decoder::default();
            let bytes = [&noise[..], &[0], &encode(HELLO, &payload)].concat();
            prop_assert_eq!(decoder.feed(&bytes).pop(), Some((HELLO, payload)));
        }
    }

    #[test]
    fn zeros_and_long_runs_have_the_known_form() {
        assert_eq!(encode(1, &[0]), [2, 1, 1, 0]);
        assert_eq!(encode(1, &[1; 253])[..2], [255, 1]);
        let mut decoder = Decoder::default();
        for length in [0, 252, 253, 254, 255, 508, CHUNK] {
            assert_eq!(decoder.feed(&encode(5, &vec![7; length])), [(5, vec![7; length])]);
        }
    }
}
