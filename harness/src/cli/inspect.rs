//! `bpflab inspect`: an object file, looked at from outside and through the kernel.

use super::args::InspectArgs;
use super::{Exit, Failure};
use crate::kernel::probe::{self, Feature, Requirement};
use crate::report::terminal::Layout;
use crate::run::RunError;
use crate::subject::inspect::Inspection;
use crate::subject::{LoadError, Subject, SubjectError, SubjectOptions};

/// Prints what the object is. A program that the kernel refuses makes it fail, unless the kernel was not asked.
pub fn inspect(args: &InspectArgs) -> Result<Exit, Failure> {
    let read = |source| SubjectError::Read { object: args.object.display().to_string(), source };
    let bytes = std::fs::read(&args.object).map_err(|source| Failure::invalid(&read(source)))?;
    let name = crate::subject::name_of(&args.object);
    let options = SubjectOptions { loader: args.loader, ..SubjectOptions::default() };
    if !args.no_load {
        let needs = ["root", "bpf"].into_iter().filter_map(Feature::named).map(Requirement::Feature);
        let unmet = probe::unmet(&needs.collect::<Vec<_>>());
        if !unmet.is_empty() {
            let failure = Failure::unavailable(&RunError::Unmet(unmet));
            return Err(Failure { message: format!("{}; --no-load reads the file alone", failure.message), ..failure });
        }
    }
    let inspection =
        Inspection::of(&name, &bytes, &options, !args.no_load).map_err(|error| Failure::invalid(&error))?;
    if args.json {
        let json = serde_json::to_string_pretty(&inspection).unwrap_or_default();
        super::report::print(&format!("{json}\n"));
    } else {
        let layout = Layout { colours: console::colors_enabled(), rows: usize::MAX };
        super::report::print(&crate::report::inspect::render(&inspection, layout));
    }
    if let Some(program) = &args.log {
        print_log(&name, &bytes, program, options)?;
    }
    Ok(if inspection.is_fine() { Exit::Passed } else { Exit::Failed })
}

fn print_log(name: &str, bytes: &[u8], program: &str, options: SubjectOptions) -> Result<(), Failure> {
    let options = SubjectOptions { programs: vec![program.to_owned()], ..options };
    let loaded = Subject::from_bytes(name, bytes, &options).and_then(|mut subject| subject.load_program(program, None));
    match loaded {
        Ok(_) => Ok(()),
        Err(SubjectError::Load { source, .. }) if matches!(*source, LoadError::Refused { .. }) => {
            if let LoadError::Refused { log, .. } = *source {
                super::report::print(&format!("\n{log}"));
            }
            Ok(())
        }
        Err(error) => Err(Failure::invalid(&error)),
    }
}
