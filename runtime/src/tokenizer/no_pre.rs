//! A build without byte-level BPE: no pre-tokenizer has a name, so there is none, and the compiler leaves out whatever
//! would use one.

/// What there is none of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PreTokenizer {}

impl PreTokenizer {
    pub(crate) fn named(_: &[u8]) -> Option<PreTokenizer> {
        None
    }

    pub(crate) fn whole_words(self) -> bool {
        match self {}
    }

    pub(crate) fn adds_bos(self) -> bool {
        match self {}
    }

    pub(crate) fn words(self, _: &[u8]) -> core::iter::Empty<&[u8]> {
        match self {}
    }
}
