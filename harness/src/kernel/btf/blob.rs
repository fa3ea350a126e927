//! Hand-made blobs of types, for tests.

/// Builds blobs record by record, in either byte order.
pub(crate) struct Blob {
    big: bool,
    types: Vec<u8>,
    strings: Vec<u8>,
}

impl Blob {
    pub(crate) fn new(big: bool) -> Self {
        Self { big, types: Vec::new(), strings: vec![0] }
    }

    fn put(bytes: &mut Vec<u8>, value: u32, big: bool) {
        bytes.extend(if big { value.to_be_bytes() } else { value.to_le_bytes() });
    }

    pub(crate) fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let at = self.strings.len() as u32;
        self.strings.extend(name.as_bytes());
        self.strings.push(0);
        at
    }

    /// One record: name, `info` (kind << 24 | vlen, kind_flag in bit 31), size or type, and the words that follow.
    pub(crate) fn record(&mut self, name: &str, info: u32, size_or_type: u32, extra: &[u32]) -> &mut Self {
        let name = self.name(name);
        for word in [name, info, size_or_type].iter().chain(extra) {
            Self::put(&mut self.types, *word, self.big);
        }
        self
    }

    /// A struct (kind 4) or union (kind 5); a member is name, type and bit offset.
    pub(crate) fn composite(
        &mut self,
        kind: u32,
        name: &str,
        size: u32,
        flag: bool,
        members: &[(&str, u32, u32)],
    ) -> &mut Self {
        let extra: Vec<u32> = members.iter().flat_map(|(name, ty, at)| [self.name(name), *ty, *at]).collect();
        self.record(name, u32::from(flag) << 31 | kind << 24 | members.len() as u32, size, &extra)
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        self.build_with(24, &[])
    }

    /// With a header of `header` bytes, which names a layout section if it is long enough.
    pub(crate) fn build_with(&self, header: u32, layout: &[u8]) -> Vec<u8> {
        let mut blob = if self.big { vec![0xeb, 0x9f, 1, 0] } else { vec![0x9f, 0xeb, 1, 0] };
        let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
        for word in [header, 0, types, types, strings, types + strings, layout.len() as u32] {
            Self::put(&mut blob, word, self.big);
        }
        blob.truncate(header as usize);
        blob.extend(&self.types);
        blob.extend(&self.strings);
        blob.extend(layout);
        blob
    }
}

pub(crate) const INT: u32 = 1 << 24;
pub(crate) const ENUM: u32 = 6 << 24;
pub(crate) const SIGNED: u32 = 1 << 31;
