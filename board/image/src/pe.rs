//! PE files: reading the sections of a UEFI program and appending sections to one (Microsoft PE/COFF, "PE Format").
//!
//! Job: turn systemd's stub into a kernel image by putting sections behind its own, and read them back. Place: used by
//! `uki`, `measure` and `authenticode`. Invariants: the result depends on the input bytes alone; what is already in the stub keeps its
//! place in the file and in memory; every number of a file is checked before it is used. Nothing here touches a disk.

/// Where the offset of the PE header stands in the DOS header.
const E_LFANEW: usize = 0x3c;
/// From the PE signature to the optional header.
const OPTIONAL: usize = 24;
/// Magic of the optional header of a 64-bit image (PE32+).
const PE32_PLUS: u16 = 0x20b;
/// AMD64.
const MACHINE: u16 = 0x8664;
/// An EFI application.
const SUBSYSTEM: u16 = 10;
const SECTION_HEADER: usize = 40;
/// Initialized data that may be read.
const DATA: u32 = 0x4000_0040;
/// Code that may be read: what systemd's own tool gives to the kernel, which old firmware paths execute in place.
const CODE: u32 = 0x4000_0020;
/// DllCharacteristics: the image tolerates memory that is either writable or executable.
const NX_COMPAT: u16 = 0x0100;

/// Why a file cannot be used; completed with its path by whoever read it.
pub type Flaw = &'static str;

/// A section as the loader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// At most eight characters.
    pub name: String,
    /// Address relative to the image's base.
    pub address: u32,
    /// Bytes in memory (VirtualSize).
    pub size: u32,
    /// Offset of its bytes in the file.
    pub offset: u32,
    /// Bytes in the file (SizeOfRawData), padded to the file's alignment.
    pub stored: u32,
}

/// A PE file for x86-64 UEFI whose headers have been checked.
#[derive(Clone, Debug)]
pub struct Pe {
    bytes: Vec<u8>,
    header: usize,
    table: usize,
    sections: Vec<Section>,
}

impl Pe {
    /// Checks the headers of `bytes`.
    ///
    /// # Errors
    /// It is no x86-64 EFI application, or a number in its headers points outside of it.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, Flaw> {
        if !bytes.starts_with(b"MZ") {
            return Err("it does not begin with MZ");
        }
        let header = usize::try_from(u32_at(&bytes, E_LFANEW)?).map_err(|_| CUT)?;
        if slice(&bytes, header, 4)? != b"PE\0\0" {
            return Err("it has no PE header");
        }
        if u16_at(&bytes, header + 4)? != MACHINE {
            return Err("it is not for x86-64");
        }
        let optional = header + OPTIONAL;
        if u16_at(&bytes, optional)? != PE32_PLUS {
            return Err("it is no PE32+ image");
        }
        if u16_at(&bytes, optional + 68)? != SUBSYSTEM {
            return Err("it is no EFI application");
        }
        let count = usize::from(u16_at(&bytes, header + 6)?);
        let table = optional + usize::from(u16_at(&bytes, header + 20)?);
        let mut sections = Vec::with_capacity(count);
        for index in 0..count {
            sections.push(Section::read(&bytes, table + index * SECTION_HEADER)?);
        }
        Ok(Self { bytes, header, table, sections })
    }

    /// The file.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// In the order of the section table.
    #[must_use]
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// The first section of this name: systemd-stub ignores all further ones.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// The bytes that `section` has in memory, VirtualSize long: what is not in the file is zero.
    #[must_use]
    pub fn contents(&self, section: &Section) -> Vec<u8> {
        let stored = section.stored.min(section.size) as usize;
        let mut contents = slice(&self.bytes, section.offset as usize, stored).unwrap_or_default().to_vec();
        contents.resize(section.size as usize, 0);
        contents
    }

    /// Offset of CheckSum, and offset of the certificate table's directory entry: both are left out of a signature.
    pub(crate) fn signature_fields(&self) -> (usize, usize) {
        (self.header + OPTIONAL + 64, self.header + OPTIONAL + 144)
    }

    /// Address and length of the certificate table; zeros in an unsigned image.
    pub(crate) fn certificates(&self) -> Result<(u32, u32), Flaw> {
        let (_, entry) = self.signature_fields();
        if u32_at(&self.bytes, self.header + OPTIONAL + 108)? < 5 {
            return Err("it has no room for a signature in its directories");
        }
        Ok((u32_at(&self.bytes, entry)?, u32_at(&self.bytes, entry + 4)?))
    }

    /// Puts `added` (name and bytes) behind what is there, in this order.
    ///
    /// # Errors
    /// The image is signed, has bytes behind its sections, has a section of one of these names already, or there is no
    /// room in its headers.
    pub fn append(&self, added: &[(&str, &[u8])]) -> Result<Self, Flaw> {
        if self.certificates()? != (0, 0) {
            return Err("it is signed already");
        }
        let optional = self.header + OPTIONAL;
        let alignment = u32_at(&self.bytes, optional + 32)?;
        let file_alignment = u32_at(&self.bytes, optional + 36)?;
        // The ranges that the format allows for files, and what firmware maps.
        let sensible = file_alignment.is_power_of_two() && (512..=65536).contains(&file_alignment);
        if !sensible || !alignment.is_power_of_two() || alignment < file_alignment {
            return Err("its alignments make no sense");
        }
        let last = self.sections.iter().max_by_key(|section| section.address).ok_or("it has no sections")?;
        let mut address = up(u64::from(last.address) + u64::from(last.size), alignment)?;
        let end = self.sections.iter().map(|section| u64::from(section.offset) + u64::from(section.stored)).max();
        let end = end.ok_or("it has no sections")?;
        if self.bytes.len() as u64 != end || end % u64::from(file_alignment) != 0 {
            return Err("it does not end with its last section");
        }
        let first = self.sections.iter().filter(|section| section.stored > 0).map(|section| section.offset).min();
        let headers_end = u32_at(&self.bytes, optional + 60)?.min(first.unwrap_or(u32::MAX)) as usize;
        let count = self.sections.len() + added.len();
        if self.table + count * SECTION_HEADER > headers_end {
            return Err("its headers have no room for more sections");
        }

        let mut bytes = self.bytes.clone();
        let mut data = u32_at(&bytes, optional + 8)?;
        for (index, (name, contents)) in added.iter().enumerate() {
            let earlier = added.iter().take(index).any(|(other, _)| other == name);
            if name.len() > 8 || earlier || self.section(name).is_some() {
                return Err("it has a section of this name already");
            }
            let size = u32::try_from(contents.len()).map_err(|_| "a section is too large")?;
            let stored = up(u64::from(size), file_alignment)?;
            let offset = u32::try_from(bytes.len()).map_err(|_| "the image is too large")?;
            let mut header = [0; SECTION_HEADER];
            put(&mut header, 0, name.as_bytes())?;
            let characteristics = if *name == ".linux" { CODE } else { DATA };
            for (at, value) in [(8, size), (12, address), (16, stored), (20, offset), (36, characteristics)] {
                put(&mut header, at, &value.to_le_bytes())?;
            }
            put(&mut bytes, self.table + (self.sections.len() + index) * SECTION_HEADER, &header)?;
            bytes.extend_from_slice(contents);
            bytes.resize(offset as usize + stored as usize, 0);
            address = up(u64::from(address) + u64::from(size), alignment)?;
            data = data.checked_add(stored).ok_or("the image is too large")?;
        }
        let count = u16::try_from(count).map_err(|_| "it has too many sections")?;
        put(&mut bytes, self.header + 6, &count.to_le_bytes())?;
        put(&mut bytes, optional + 8, &data.to_le_bytes())?;
        put(&mut bytes, optional + 56, &address.to_le_bytes())?;
        put(&mut bytes, optional + 64, &[0; 4])?;
        Self::parse(bytes)
    }

    /// Whether the image says that it runs where no memory is both writable and executable.
    pub(crate) fn tolerates_nx(&self) -> Result<bool, Flaw> {
        Ok(u16_at(&self.bytes, self.header + OPTIONAL + 70)? & NX_COMPAT != 0)
    }

    /// Takes that word back: the kernel inside cannot keep it.
    pub(crate) fn without_nx(mut self) -> Result<Self, Flaw> {
        let at = self.header + OPTIONAL + 70;
        let value = u16_at(&self.bytes, at)? & !NX_COMPAT;
        put(&mut self.bytes, at, &value.to_le_bytes())?;
        Ok(self)
    }
}

impl Section {
    fn read(bytes: &[u8], at: usize) -> Result<Self, Flaw> {
        let name = slice(bytes, at, 8)?;
        let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
        let section = Self {
            name: String::from_utf8_lossy(name).into_owned(),
            size: u32_at(bytes, at + 8)?,
            address: u32_at(bytes, at + 12)?,
            stored: u32_at(bytes, at + 16)?,
            offset: u32_at(bytes, at + 20)?,
        };
        slice(bytes, section.offset as usize, section.stored.min(section.size) as usize)?;
        Ok(section)
    }
}

const CUT: Flaw = "a number in its headers points outside of the file";

pub(crate) fn slice(bytes: &[u8], at: usize, length: usize) -> Result<&[u8], Flaw> {
    at.checked_add(length).and_then(|end| bytes.get(at..end)).ok_or(CUT)
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Result<u16, Flaw> {
    slice(bytes, at, 2)?.try_into().map(u16::from_le_bytes).map_err(|_| CUT)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Flaw> {
    slice(bytes, at, 4)?.try_into().map(u32::from_le_bytes).map_err(|_| CUT)
}

pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) -> Result<(), Flaw> {
    let end = at.checked_add(value.len()).ok_or(CUT)?;
    bytes.get_mut(at..end).ok_or(CUT)?.copy_from_slice(value);
    Ok(())
}

fn up(value: u64, alignment: u32) -> Result<u32, Flaw> {
    u32::try_from(value.next_multiple_of(u64::from(alignment.max(1)))).map_err(|_| "the image is too large")
}
