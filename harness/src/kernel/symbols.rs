//! The kernel's symbols: which function an address belongs to.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::sync::{Mutex, OnceLock, PoisonError};

/// Where the kernel lists its symbols, those of modules and of loaded BPF programs included.
const KALLSYMS: &str = "/proc/kallsyms";
/// No function is longer. An address further behind the last symbol before it lies in a gap between modules.
const LONGEST: u64 = 1 << 20;

/// Why addresses cannot be named.
#[derive(Debug, thiserror::Error)]
pub enum SymbolsError {
    /// The list could not be read.
    #[error("cannot read kernel symbols in {KALLSYMS}; without them the places of drops are unknown")]
    Read(#[source] std::io::Error),
    /// The kernel shows names without addresses.
    #[error(
        "kernel addresses are hidden in {KALLSYMS}; without them the places of drops are unknown. Run as root, and \
         with `sysctl kernel.kptr_restrict=1` or 0"
    )]
    Hidden,
    /// The list is there, but empty or of another format.
    #[error("{KALLSYMS} lists no function (a kernel without CONFIG_KALLSYMS?)")]
    Empty,
}

/// Functions by address.
#[derive(Debug, Default)]
pub struct Symbols {
    /// Names, one after the other.
    names: String,
    /// Address, start of the name, its end; by address.
    functions: Vec<(u64, u32, u32)>,
}

impl Symbols {
    /// Reads the symbols of the kernel and its modules as they are now. Takes tens of ms; see [`functions`].
    ///
    /// # Errors
    /// [`SymbolsError`].
    pub fn load() -> Result<Self, SymbolsError> {
        let file = std::fs::File::open(KALLSYMS).map_err(SymbolsError::Read)?;
        Self::parse(std::io::BufReader::with_capacity(1 << 16, file))
    }

    /// Parses lines of `address type name [module]`.
    ///
    /// # Errors
    /// [`SymbolsError`].
    pub fn parse(mut list: impl BufRead) -> Result<Self, SymbolsError> {
        let (mut symbols, mut line, mut hidden) = (Self::default(), String::new(), false);
        loop {
            line.clear();
            if list.read_line(&mut line).map_err(SymbolsError::Read)? == 0 {
                break;
            }
            let mut words = line.split_ascii_whitespace();
            let (Some(address), Some(kind), Some(name)) = (words.next(), words.next(), words.next()) else { continue };
            // Code only: text and weak symbols, local and global.
            let (Ok(address), "t" | "T" | "w" | "W") = (u64::from_str_radix(address, 16), kind) else { continue };
            if address == 0 {
                hidden = true;
                continue;
            }
            symbols.push(address, plain(name));
        }
        match (symbols.functions.is_empty(), hidden) {
            (true, true) => return Err(SymbolsError::Hidden),
            (true, false) => return Err(SymbolsError::Empty),
            (false, _) => {}
        }
        // Stable: of several names of one address, the last in the list stays last and is the one found.
        symbols.functions.sort_by_key(|(address, ..)| *address);
        Ok(symbols)
    }

    fn push(&mut self, address: u64, name: &str) {
        let start = self.names.len();
        self.names.push_str(name);
        // A list of over 4 GB is not a symbol list.
        if let (Ok(start), Ok(end)) = (u32::try_from(start), u32::try_from(self.names.len())) {
            self.functions.push((address, start, end));
        }
    }

    /// The function that `address` lies in, without offset and without the compiler's suffix for a specialised copy.
    #[must_use]
    pub fn function(&self, address: u64) -> Option<&str> {
        let after = self.functions.partition_point(|(start, ..)| *start <= address);
        let (start, from, to) = *self.functions.get(after.checked_sub(1)?)?;
        if address - start > LONGEST {
            return None;
        }
        self.names.get(from as usize..to as usize)
    }

    /// Number of functions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.functions.len()
    }

    /// Never true for symbols that were loaded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }
}

/// A name without `.constprop.0`, `.isra.0`, `.part.0`, `.cold`, `.llvm.123`: which copies a compiler makes is not
/// the kernel's behaviour.
fn plain(name: &str) -> &str {
    match name.find('.') {
        Some(0) | None => name,
        Some(dot) => &name[..dot],
    }
}

/// Names the functions of `addresses`; one that belongs to no function is left out.
///
/// The symbols are read once per process, at the first call with any address, and once more if an address is not
/// found, since a module may have been loaded in between.
///
/// # Errors
/// [`SymbolsError`].
pub fn functions(addresses: impl IntoIterator<Item = u64>) -> Result<BTreeMap<u64, String>, SymbolsError> {
    static CACHE: OnceLock<Mutex<Option<Symbols>>> = OnceLock::new();
    let addresses: Vec<u64> = addresses.into_iter().collect();
    if addresses.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut cache = CACHE.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    let known = cache.as_ref().is_some_and(|symbols| addresses.iter().all(|at| symbols.function(*at).is_some()));
    if !known {
        *cache = Some(Symbols::load()?);
    }
    let names = cache.as_ref().map(|symbols| {
        addresses.iter().filter_map(|at| Some((*at, symbols.function(*at)?.to_owned()))).collect::<BTreeMap<_, _>>()
    });
    Ok(names.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\
0000000000000100 A not_code
ffffffff81000000 T _stext
ffffffff81000010 t local.constprop.0
ffffffff81000010 T global
ffffffff81000040 t .hidden
ffffffffc0000000 t in_module\t[some_module]
";

    #[test]
    fn an_address_belongs_to_the_last_function_before_it() {
        let symbols = Symbols::parse(LIST.as_bytes()).unwrap();
        assert_eq!(symbols.len(), 5);
        assert_eq!(symbols.function(0xffff_ffff_8100_0000), Some("_stext"));
        assert_eq!(symbols.function(0xffff_ffff_8100_000f), Some("_stext"));
        // Two names of one address: the later of the list.
        assert_eq!(symbols.function(0xffff_ffff_8100_003f), Some("global"));
        assert_eq!(symbols.function(0xffff_ffff_8100_0040), Some(".hidden"));
        assert_eq!(symbols.function(0xffff_ffff_c000_0123), Some("in_module"));
        // Below all, in the gap between the kernel and its modules, and above all.
        assert_eq!(symbols.function(0x100), None);
        assert_eq!(symbols.function(0xffff_ffff_a000_0000), None);
        assert_eq!(symbols.function(u64::MAX), None);
    }

    #[test]
    fn suffixes_of_specialised_copies_go() {
        assert_eq!(plain("local.constprop.0"), "local");
        assert_eq!(plain("tcp_v4_rcv"), "tcp_v4_rcv");
        assert_eq!(plain(".hidden"), ".hidden");
    }

    #[test]
    fn hidden_and_empty_lists_are_told_apart() {
        let hidden = Symbols::parse("0000000000000000 T _stext\n0000000000000000 t x\n".as_bytes()).unwrap_err();
        assert!(hidden.to_string().contains("kptr_restrict"), "{hidden}");
        assert!(matches!(Symbols::parse(&b"garbage\n\n"[..]), Err(SymbolsError::Empty)));
        assert!(matches!(Symbols::parse(&b"\xff\xfe"[..]), Err(SymbolsError::Read(_))));
    }

    #[test]
    fn the_running_kernel_names_its_functions() {
        let symbols = Symbols::load().unwrap();
        let text = std::fs::read_to_string(KALLSYMS).unwrap();
        let line = text.lines().find(|line| line.ends_with(" ip_rcv")).unwrap();
        let address = u64::from_str_radix(line.split(' ').next().unwrap(), 16).unwrap();
        assert_eq!(symbols.function(address + 1), Some("ip_rcv"));
        assert_eq!(functions([address + 4, 1]).unwrap(), BTreeMap::from([(address + 4, "ip_rcv".to_owned())]));
        assert!(functions([]).unwrap().is_empty());
    }
}
