//! What is set in an object before its maps are made.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{SubjectError, missing};
use crate::coverage::Counting;
use crate::object::elf::Elf;

/// The library that makes an object's maps and relocates its code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Loader {
    /// libbpf, for which C objects are written.
    Libbpf,
    /// aya, for its own objects and for those of before libbpf 1.0.
    Aya,
}

impl Loader {
    /// Who is asked, in this order.
    #[cfg(feature = "libbpf")]
    pub const ORDER: [Self; 2] = [Self::Libbpf, Self::Aya];
    /// Who is asked, in this order.
    #[cfg(not(feature = "libbpf"))]
    pub const ORDER: [Self; 1] = [Self::Aya];
}

impl fmt::Display for Loader {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Libbpf => "libbpf",
            Self::Aya => "aya",
        })
    }
}

/// What is set in an object before its maps are made.
#[derive(Clone, Debug, Default)]
pub struct SubjectOptions {
    /// The library; the first that takes the object if none is named.
    pub loader: Option<Loader>,
    /// Globals by name, and their bytes.
    pub globals: Vec<(String, Vec<u8>)>,
    /// Sizes of maps by name, elements.
    pub max_entries: Vec<(String, u32)>,
    /// The only programs that matter: others may lack what they need of the kernel. All of them if none is named.
    pub programs: Vec<String>,
    /// Whether programs read a clock that [`super::Subject::set_clock`] sets, instead of the kernel's.
    pub virtual_clock: bool,
    /// Whether it is counted which instructions are reached, and how.
    pub coverage: Option<Counting>,
}

impl SubjectOptions {
    /// Whether what is named is there, in its size.
    pub(super) fn check(&self, object: &str, elf: &Elf) -> Result<(), SubjectError> {
        for (name, bytes) in &self.globals {
            let Some(global) = elf.globals.iter().find(|global| global.name == *name) else {
                let known = elf.globals.iter().map(|global| global.name.clone()).collect();
                return Err(missing(object, "global variable", name, known));
            };
            if global.size != bytes.len() {
                let (expected, given) = (global.size, bytes.len());
                return Err(SubjectError::GlobalSize {
                    object: object.to_owned(),
                    global: name.clone(),
                    expected,
                    given,
                });
            }
        }
        for (map, _) in &self.max_entries {
            if elf.map(map).is_none() {
                let known = elf.maps.iter().map(|map| map.name.clone()).collect();
                return Err(missing(object, "map", map, known));
            }
        }
        for program in &self.programs {
            if elf.program(program).is_none() {
                let known = elf.programs.iter().map(|program| program.name.clone()).collect();
                return Err(missing(object, "program", program, known));
            }
        }
        Ok(())
    }

    /// Whether a program matters.
    pub(super) fn wants(&self, program: &str) -> bool {
        self.programs.is_empty() || self.programs.iter().any(|wanted| wanted == program)
    }

    /// Writes the globals of one section over what it holds at first.
    pub(super) fn patch(&self, elf: &Elf, section: &str, content: &mut [u8]) {
        for global in elf.globals.iter().filter(|global| global.section == section) {
            let given = self.globals.iter().find(|(name, _)| *name == global.name);
            if let Some((_, bytes)) = given
                && let Some(place) = content.get_mut(global.offset..global.offset + global.size)
            {
                place.copy_from_slice(bytes);
            }
        }
    }
}
