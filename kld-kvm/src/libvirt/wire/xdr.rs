//! XDR (RFC 4506), as far as libvirt's calls need it: big-endian words, and opaque data padded to words.

use uuid::Uuid;

const WORD: usize = 4;

/// Writes values one after the other.
#[derive(Debug, Default)]
pub(super) struct Encoder(Vec<u8>);

impl Encoder {
    pub(super) fn word(mut self, value: u32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub(super) fn int(self, value: i32) -> Self {
        self.word(value.cast_unsigned())
    }

    /// A string; its length is a word, so that it must be shorter than 4 GiB.
    pub(super) fn string(mut self, text: &[u8]) -> Self {
        self = self.word(u32::try_from(text.len()).unwrap_or(u32::MAX));
        self.0.extend(text);
        self.0.resize(self.0.len() + padding(text.len()), 0);
        self
    }

    /// A string that may be absent, and is not.
    pub(super) fn present(self, text: &[u8]) -> Self {
        self.word(1).string(text)
    }

    pub(super) fn uuid(mut self, uuid: Uuid) -> Self {
        self.0.extend(uuid.as_bytes());
        self
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }
}

fn padding(len: usize) -> usize {
    len.next_multiple_of(WORD) - len
}

/// What is read is not what was expected there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Reads values one after the other, and never past the end.
#[derive(Debug)]
pub(super) struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Decoder(bytes)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn word(&mut self) -> Result<u32, Malformed> {
        let (word, rest) = self.0.split_first_chunk::<WORD>().ok_or(Malformed)?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*word))
    }

    pub(super) fn int(&mut self) -> Result<i32, Malformed> {
        self.word().map(u32::cast_signed)
    }

    /// How long a string or a list is, which is at most `limit`.
    pub(super) fn length(&mut self, limit: usize) -> Result<usize, Malformed> {
        let length = usize::try_from(self.word()?).map_err(|_| Malformed)?;
        if length > limit { Err(Malformed) } else { Ok(length) }
    }

    pub(super) fn string(&mut self, limit: usize) -> Result<&'a [u8], Malformed> {
        let length = self.length(limit)?;
        let text = self.take(length)?;
        self.take(padding(length))?;
        Ok(text)
    }

    pub(super) fn uuid(&mut self) -> Result<Uuid, Malformed> {
        Uuid::from_slice(self.take(16)?).map_err(|_| Malformed)
    }

    /// What may be absent.
    pub(super) fn optional<T>(
        &mut self,
        value: impl FnOnce(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Option<T>, Malformed> {
        match self.word()? {
            0 => Ok(None),
            1 => value(self).map(Some),
            _ => Err(Malformed),
        }
    }

    /// Nothing follows.
    pub(super) fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_are_big_endian_and_strings_are_padded_to_words() {
        let bytes = Encoder::default().word(0x0102_0304).int(-1).string(b"hello").present(b"").finish();
        let expected = b"\x01\x02\x03\x04\xff\xff\xff\xff\0\0\0\x05hello\0\0\0\0\0\0\x01\0\0\0\0";
        assert_eq!(bytes, expected);
    }

    #[test]
    fn a_string_that_is_longer_than_its_limit_or_than_the_message_is_refused() {
        let bytes = Encoder::default().string(b"hello").finish();
        assert_eq!(Decoder::new(&bytes).string(5), Ok(b"hello".as_slice()));
        assert_eq!(Decoder::new(&bytes).string(4), Err(Malformed));
        assert_eq!(Decoder::new(&bytes[..9]).string(5), Err(Malformed));
        // The padding belongs to it.
        assert_eq!(Decoder::new(&bytes[..10]).string(5), Err(Malformed));
        assert_eq!(Decoder::new(b"\xff\xff\xff\xff").string(usize::MAX), Err(Malformed));
    }

    #[test]
    fn what_is_neither_present_nor_absent_is_refused() {
        assert_eq!(Decoder::new(&[0, 0, 0, 0]).optional(Decoder::word), Ok(None));
        assert_eq!(Decoder::new(&[0, 0, 0, 2]).optional(Decoder::word), Err(Malformed));
        assert_eq!(Decoder::new(&[0]).end(), Err(Malformed));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_back(
            word: u32, int: i32, text: Vec<u8>, uuid: [u8; 16], maybe: Option<Vec<u8>>
        ) {
            let uuid = Uuid::from_bytes(uuid);
            let encoder = Encoder::default().word(word).int(int).string(&text).uuid(uuid);
            let bytes = match &maybe {
                None => encoder.word(0),
                Some(text) => encoder.present(text),
            }
            .finish();
            prop_assert_eq!(bytes.len() % WORD, 0);

            let mut decoder = Decoder::new(&bytes);
            prop_assert_eq!(decoder.word(), Ok(word));
            prop_assert_eq!(decoder.int(), Ok(int));
            prop_assert_eq!(decoder.string(text.len()), Ok(text.as_slice()));
            prop_assert_eq!(decoder.uuid(), Ok(uuid));
            prop_assert_eq!(decoder.optional(|decoder| decoder.string(usize::MAX)), Ok(maybe.as_deref()));
            prop_assert_eq!(decoder.end(), Ok(()));
        }
    }
}
