//! The little of ELF the build needs: the names in an object's symbol tables.
//!
//! Little-endian ELF64 only, as the `bpfel` target writes it. Never panics on a
//! malformed file: a field out of range is an error. Layout: elf(5).

use std::fmt;

/// Why a file could not be read as an ELF64 object.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed(&'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a little-endian ELF64 object: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

const SHT_SYMTAB: u32 = 2;
const SECTION_HEADER: usize = 64;
const SYMBOL: usize = 24;

/// One section header, the fields used here.
struct Section {
    kind: u32,
    offset: usize,
    size: usize,
    link: usize,
}

/// All non-empty symbol names of an object, in file order, defined and undefined alike.
pub fn symbol_names(file: &[u8]) -> Result<Vec<String>, Malformed> {
    if file.get(..6) != Some(b"\x7fELF\x02\x01") {
        return Err(Malformed("wrong magic, class or byte order"));
    }
    let headers = word(file, 40)?;
    let entry = usize::from(half(file, 58)?);
    let count = usize::from(half(file, 60)?);
    if entry != SECTION_HEADER {
        return Err(Malformed("section headers of unknown size"));
    }
    let sections = (0..count).map(|index| section(file, headers, index)).collect::<Result<Vec<_>, _>>()?;

    let mut names = Vec::new();
    for table in sections.iter().filter(|s| s.kind == SHT_SYMTAB) {
        let strings = sections.get(table.link).ok_or(Malformed("symbol table without its strings"))?;
        let strings = contents(file, strings)?;
        for symbol in contents(file, table)?.chunks_exact(SYMBOL) {
            let at = usize::try_from(quad(symbol, 0)?).map_err(|_| Malformed("name offset"))?;
            let name = strings.get(at..).ok_or(Malformed("name outside its table"))?;
            let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
            if end > 0 {
                names.push(String::from_utf8_lossy(&name[..end]).into_owned());
            }
        }
    }
    Ok(names)
}

fn section(file: &[u8], headers: usize, index: usize) -> Result<Section, Malformed> {
    let at = index
        .checked_mul(SECTION_HEADER)
        .and_then(|o| o.checked_add(headers))
        .ok_or(Malformed("section header out of range"))?;
    let header: [u8; SECTION_HEADER] = bytes(file, at)?;
    Ok(Section {
        kind: quad(&header, 4)?,
        offset: word(&header, 24)?,
        size: word(&header, 32)?,
        link: usize::try_from(quad(&header, 40)?).map_err(|_| Malformed("link"))?,
    })
}

fn contents<'a>(file: &'a [u8], section: &Section) -> Result<&'a [u8], Malformed> {
    section
        .offset
        .checked_add(section.size)
        .and_then(|end| file.get(section.offset..end))
        .ok_or(Malformed("section outside the file"))
}

fn bytes<const N: usize>(file: &[u8], at: usize) -> Result<[u8; N], Malformed> {
    at.checked_add(N)
        .and_then(|end| file.get(at..end))
        .and_then(|slice| slice.try_into().ok())
        .ok_or(Malformed("truncated"))
}

fn half(file: &[u8], at: usize) -> Result<u16, Malformed> {
    bytes(file, at).map(u16::from_le_bytes)
}

fn quad(file: &[u8], at: usize) -> Result<u32, Malformed> {
    bytes(file, at).map(u32::from_le_bytes)
}

fn word(file: &[u8], at: usize) -> Result<usize, Malformed> {
    usize::try_from(u64::from_le_bytes(bytes(file, at)?)).map_err(|_| Malformed("offset too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An object with an empty section, a symbol table and its strings.
    fn object(names: &[&str]) -> Vec<u8> {
        let mut strings = vec![0u8];
        let mut symbols = vec![0u8; SYMBOL];
        for name in names {
            let mut symbol = [0u8; SYMBOL];
            symbol[..4].copy_from_slice(&(strings.len() as u32).to_le_bytes());
            symbols.extend(symbol);
            strings.extend(name.as_bytes());
            strings.push(0);
        }
        let mut file = vec![0u8; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let symbols_at = file.len();
        file.extend(&symbols);
        let strings_at = file.len();
        file.extend(&strings);
        let headers = file.len() as u64;
        file[40..48].copy_from_slice(&headers.to_le_bytes());
        file[58..60].copy_from_slice(&64u16.to_le_bytes());
        file[60..62].copy_from_slice(&3u16.to_le_bytes());
        for (kind, at, size, link) in [
            (0u32, 0usize, 0usize, 0u32),
            (SHT_SYMTAB, symbols_at, symbols.len(), 2),
            (3, strings_at, strings.len(), 0),
        ] {
            let mut header = [0u8; SECTION_HEADER];
            header[4..8].copy_from_slice(&kind.to_le_bytes());
            header[24..32].copy_from_slice(&(at as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(size as u64).to_le_bytes());
            header[40..44].copy_from_slice(&link.to_le_bytes());
            file.extend(header);
        }
        file
    }

    #[test]
    fn names_are_read_in_order() {
        let file = object(&["cil_pass", "_ZN4core9panicking9panic_fmt"]);
        assert_eq!(symbol_names(&file).unwrap(), ["cil_pass", "_ZN4core9panicking9panic_fmt"]);
    }

    #[test]
    fn no_truncation_and_no_flipped_byte_panics() {
        let file = object(&["one", "two"]);
        for end in 0..file.len() {
            assert!(symbol_names(&file[..end]).is_err(), "cut at {end}");
        }
        for at in 0..file.len() {
            let mut flipped = file.clone();
            flipped[at] ^= 0xff;
            // Either reading is fine; what must not happen is a panic or a read outside.
            let _ = symbol_names(&flipped);
        }
    }

    #[test]
    fn a_shared_library_of_another_class_is_refused() {
        assert!(symbol_names(b"\x7fELF\x01\x01").is_err());
        assert!(symbol_names(b"").is_err());
    }
}
