//! Fields of a log entry: numbers in big-endian order, texts and lists behind their length.

/// Bytes are not what this release or an older one wrote.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("entry is damaged or of a later release: {0}")]
pub(crate) struct Damaged(pub(crate) &'static str);

/// Writes fields one after the other.
#[derive(Debug, Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.0.extend(value.to_be_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.0.extend(value.to_be_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.0.extend(value.to_be_bytes());
    }

    /// At most 65535 octets behind their length.
    ///
    /// # Panics
    ///
    /// If there are more: everything we keep came in a DNS message or is bounded when it is made.
    pub(crate) fn octets(&mut self, octets: &[u8]) {
        self.u16(u16::try_from(octets.len()).expect("a field has at most 65535 octets"));
        self.0.extend(octets);
    }

    /// As [`Writer::octets`] with a length of four octets.
    pub(crate) fn long(&mut self, octets: &[u8]) {
        self.u32(u32::try_from(octets.len()).expect("a document is far below 4 GiB"));
        self.0.extend(octets);
    }

    /// A list: its length, then each item by `write`.
    pub(crate) fn list<T>(&mut self, items: impl ExactSizeIterator<Item = T>, mut write: impl FnMut(&mut Writer, T)) {
        self.u16(u16::try_from(items.len()).expect("a list has at most 65535 items"));
        items.for_each(|item| write(self, item));
    }
}

/// Reads fields one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    /// Whether nothing follows.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, octets: usize) -> Result<&'a [u8], Damaged> {
        let (taken, rest) = self.0.split_at_checked(octets).ok_or(Damaged("it ends early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Damaged> {
        Ok(self.take(N)?.try_into().expect("as many octets as asked for"))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Damaged> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Damaged> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Damaged> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Damaged> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub(crate) fn octets16(&mut self) -> Result<[u8; 16], Damaged> {
        self.array()
    }

    pub(crate) fn octets(&mut self) -> Result<&'a [u8], Damaged> {
        let octets = self.u16()?;
        self.take(usize::from(octets))
    }

    pub(crate) fn long(&mut self) -> Result<&'a [u8], Damaged> {
        let octets = self.u32()?;
        self.take(octets as usize)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, Damaged> {
        std::str::from_utf8(self.octets()?).map_err(|_| Damaged("a text is not UTF-8"))
    }

    /// A text that has a grammar of its own.
    pub(crate) fn parsed<T: std::str::FromStr>(&mut self) -> Result<T, Damaged> {
        self.text()?.parse().map_err(|_| Damaged("a text breaks its grammar"))
    }

    pub(crate) fn list<T>(
        &mut self,
        mut read: impl FnMut(&mut Reader<'a>) -> Result<T, Damaged>,
    ) -> Result<Vec<T>, Damaged> {
        let count = self.u16()?;
        (0..count).map(|_| read(self)).collect()
    }

    /// Nothing may follow.
    pub(crate) fn end(self) -> Result<(), Damaged> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Damaged("octets follow its end"))
        }
    }
}
