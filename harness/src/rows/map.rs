//! One map with its types: read as rows, and written from values.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

use serde_json::Value;

use super::arrange::{Aliases, Arranger, RawValue, split_section};
use super::compile::{PlanError, compile, compile_bytes, compile_section};
use super::decode::Decoder;
use super::definition::{MapTypes, map_types, section_of};
use super::encode::Encoder;
use super::hints::{Formats, Hints, Zeros};
use super::listing::{self, Listed, each, kind_name};
use super::plan::Plan;
use super::{MapRows, Row, RowsError};
use crate::kernel::btf::{Btf, Kind};
use crate::sys::{self, MapHandle, MapInfo, map_kind as kind};

/// Elements of an array that are shown although they are zeros, where no hint decides.
const FEW: u32 = 16;

/// What is known of a map besides its descriptor.
#[derive(Clone, Copy, Debug, Default)]
pub struct Source<'a> {
    /// Its name in the object; the kernel keeps only 15 bytes of it.
    pub name: &'a str,
    /// The object's own types, for a map that the kernel has none for.
    pub object: Option<&'a Btf>,
    /// Places of variables in their sections by name, from the object's symbol table, where [`Source::object`] is the
    /// `.BTF` of a file that no loader has completed.
    pub offsets: Option<&'a BTreeMap<String, u64>>,
}

/// Elements as bytes, by key.
pub(crate) type RawElements = BTreeMap<Vec<u8>, Vec<u8>>;

/// How a map is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// Whether the elements of queues and stacks are taken out: there is no other way to see them. Only at the end of a
    /// run.
    pub pop: bool,
}

/// How values are laid out, and what is said of that.
#[derive(Clone, Debug)]
struct Layout {
    key: Option<Plan>,
    value: Plan,
    typed: bool,
    /// Whether the value is a section, whose variables are the rows.
    section: bool,
    notes: Vec<String>,
}

/// A map that rows are read from and entries written to.
///
/// Everything about types and hints is settled when it is opened: reading it again and again costs no more than that.
#[derive(Debug)]
pub struct TypedMap {
    name: String,
    handle: MapHandle,
    layout: Layout,
    hints: Hints,
    inner: Option<MapTypes>,
    /// The object's types for inner maps that have none, compiled when the map was opened.
    inner_layout: Option<Layout>,
}

impl TypedMap {
    /// Opens the map behind `fd`. Its types are those that the kernel has for it, else those of its definition in the
    /// object; without any it is read as bytes, and [`MapRows::typed`] says so.
    ///
    /// # Errors
    /// [`RowsError::Map`] if `fd` is no map, [`RowsError::Hint`] for a hint that leads nowhere in a typed map,
    /// [`RowsError::Plan`] for a format that does not fit.
    pub fn open(fd: BorrowedFd<'_>, source: Source<'_>, hints: &Hints) -> Result<Self, RowsError> {
        let handle = MapHandle::new(fd).map_err(|error| RowsError::map("open", source.name, error))?;
        Self::with_handle(handle, source, hints)
    }

    fn with_handle(handle: MapHandle, source: Source<'_>, hints: &Hints) -> Result<Self, RowsError> {
        let formats = hints.formats();
        let types = source.object.and_then(|btf| map_types(btf, source.name));
        let holds_maps = matches!(handle.info().kind, kind::ARRAY_OF_MAPS | kind::HASH_OF_MAPS);
        let key = if holds_maps { "key.outer" } else { "key" };
        let layout = Layout::of(handle.info(), source, types.as_ref(), key, &formats)?;
        let inner = types.and_then(|types| types.inner).map(|inner| *inner);
        let mut map =
            Self { name: source.name.to_owned(), handle, layout, hints: hints.clone(), inner, inner_layout: None };
        map.inner_layout = map.inner_from_object(source, &formats)?;
        map.check_hints()?;
        Ok(map)
    }

    /// Opens a map that this one holds, with the types that the object gives to the maps in this one, else those that the
    /// kernel has for it.
    ///
    /// # Errors
    /// [`RowsError::Map`] if `fd` is no map.
    pub fn inner(&self, fd: BorrowedFd<'_>) -> Result<Self, RowsError> {
        let mut map = Self::open(fd, Source { name: &self.name, ..Source::default() }, &Hints::default())?;
        if let Some(layout) = &self.inner_layout {
            map.layout = layout.clone();
        }
        Ok(map)
    }

    /// The map's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the kernel says of it.
    #[must_use]
    pub fn info(&self) -> &MapInfo {
        self.handle.info()
    }

    /// Whether keys and values have types.
    #[must_use]
    pub fn is_typed(&self) -> bool {
        self.layout.typed
    }

    /// Whether its values are maps.
    pub(crate) fn holds_maps(&self) -> bool {
        matches!(self.info().kind, kind::ARRAY_OF_MAPS | kind::HASH_OF_MAPS)
    }

    fn check_hints(&self) -> Result<(), RowsError> {
        let mut plans = Vec::new();
        if self.holds_maps() {
            plans.extend(self.layout.key.iter().map(|plan| ("key.outer", plan)));
            // What inner maps look like is known for sure only when there are some.
            let Some(inner) = &self.inner_layout else { return Ok(self.hints.check()?) };
            plans.extend(inner.key.iter().map(|plan| ("key.inner", plan)));
            plans.push(("value", &inner.value));
        } else {
            plans.extend(self.layout.key.iter().map(|plan| ("key", plan)));
            plans.push(("value", &self.layout.value));
        }
        // Bytes have no members: hints for them wait for an object that has types.
        if !self.layout.typed {
            return Ok(self.hints.check()?);
        }
        Ok(self.hints.check_paths(&self.name, &plans)?)
    }

    fn inner_from_object(&self, source: Source<'_>, formats: &Formats) -> Result<Option<Layout>, RowsError> {
        let (true, Some(btf), Some(types)) = (self.holds_maps(), source.object, &self.inner) else { return Ok(None) };
        let size = |id: Option<u32>, size: Option<u32>| {
            id.and_then(|id| btf.size(id)).and_then(|size| u32::try_from(size).ok()).or(size).unwrap_or(0)
        };
        let mut info = MapInfo::default();
        info.kind = types.kind.unwrap_or(kind::HASH);
        info.key_size = size(types.key, types.key_size);
        info.value_size = size(types.value, types.value_size);
        let source = Source { offsets: None, ..source };
        Layout::of(&info, source, Some(types), "key.inner", formats).map(Some)
    }

    /// All rows of the map, arranged as its hints say.
    ///
    /// # Errors
    /// [`RowsError::Map`] for what the kernel refuses; that a kind of map cannot be listed is no error but a note.
    pub fn read(&self, options: ReadOptions, aliases: &mut Aliases) -> Result<MapRows, RowsError> {
        let mut notes = self.layout.notes.clone();
        let mut arranger = Arranger::new(&self.hints);
        let mut typed = self.layout.typed;
        if let Some(why) = listing::why_no_rows(self.info()) {
            notes = vec![why.to_owned()];
        } else if matches!(self.info().kind, kind::QUEUE | kind::STACK) {
            self.pop(options, &mut arranger, &mut notes)?;
        } else if self.holds_maps() {
            typed = self.descend(&mut arranger, &mut notes)?;
        } else {
            self.list(&mut arranger, &mut notes)?;
        }
        let (mut rows, more) = arranger.finish(aliases);
        if self.layout.section {
            rows = split_section(rows);
        }
        let note = (!notes.is_empty()).then(|| notes.join("\n"));
        Ok(MapRows { map: self.name.clone(), kind: kind_name(self.info().kind), typed, note, rows, more })
    }

    fn list(&self, arranger: &mut Arranger<'_>, notes: &mut Vec<String>) -> Result<(), RowsError> {
        let reader = Reader::new(&self.handle, &self.layout);
        let hide = match self.hints.zeros {
            Some(zeros) => zeros == Zeros::Drop,
            None => self.info().max_entries > FEW,
        } && listing::is_array(self.info().kind)
            && !self.layout.section;
        let mut hidden = 0_u64;
        let listed = each(&self.handle, &mut |key, value| {
            if hide && value.iter().all(|byte| *byte == 0) {
                hidden += 1;
                return;
            }
            arranger.push(reader.key(key), reader.value(value));
        })
        .map_err(|error| RowsError::map("read", &self.name, error))?;
        if hidden != 0 {
            notes.push(format!("{hidden} elements that are all zeros are not shown"));
        }
        match listed {
            Listed::All => {}
            Listed::Keys => notes.push("the kernel shows the keys of this map, not its values".to_owned()),
            Listed::Nothing => notes.push("the kernel does not list the elements of such a map".to_owned()),
        }
        Ok(())
    }

    /// Every element as bytes; nothing for a map whose elements the kernel does not show, or shows as descriptors.
    pub(crate) fn raw(&self) -> Result<Option<RawElements>, RowsError> {
        let is_queue = matches!(self.info().kind, kind::QUEUE | kind::STACK);
        if is_queue || self.info().holds_descriptors() || listing::why_no_rows(self.info()).is_some() {
            return Ok(None);
        }
        let mut elements = BTreeMap::new();
        let listed = each(&self.handle, &mut |key, value| _ = elements.insert(key.to_vec(), value.to_vec()));
        let listed = listed.map_err(|error| RowsError::map("read", &self.name, error))?;
        Ok(matches!(listed, Listed::All).then_some(elements))
    }

    /// The rows that an element of [`TypedMap::raw`] is: one, or those of a section's variables.
    pub(crate) fn rows_of(&self, key: &[u8], value: &[u8]) -> Vec<Row> {
        let reader = Reader::new(&self.handle, &self.layout);
        let mut arranger = Arranger::new(&self.hints);
        arranger.push(reader.key(key), reader.value(value));
        let (rows, _) = arranger.finish(&mut Aliases::default());
        if self.layout.section { split_section(rows) } else { rows }
    }

    fn pop(&self, options: ReadOptions, arranger: &mut Arranger<'_>, notes: &mut Vec<String>) -> Result<(), RowsError> {
        if !options.pop {
            notes.push("a queue or stack can be seen only by taking its elements out".to_owned());
            return Ok(());
        }
        let reader = Reader::new(&self.handle, &self.layout);
        // Programs may still be filling it: no more than it can hold at once.
        for index in 0..self.info().max_entries {
            let popped = self.handle.pop().map_err(|error| RowsError::map("take from", &self.name, error))?;
            let Some(value) = popped else { break };
            arranger.push(Some(index.into()), reader.value(&value));
        }
        Ok(())
    }

    /// Rows of the inner maps; the result says whether all of them have types.
    fn descend(&self, arranger: &mut Arranger<'_>, notes: &mut Vec<String>) -> Result<bool, RowsError> {
        let mut inner = Vec::new();
        let listed = each(&self.handle, &mut |key, value| inner.push((key.to_vec(), value.to_vec())));
        listed.map_err(|error| RowsError::map("read", &self.name, error))?;
        let (reader, formats) = (Reader::new(&self.handle, &self.layout), self.hints.formats());
        let mut typed = self.layout.typed;
        for (key, value) in inner {
            let outer = reader.key(&key).unwrap_or(Value::Null);
            let id = value.first_chunk().map_or(0, |id| u32::from_ne_bytes(*id));
            let handle = match sys::map_by_id(id).and_then(MapHandle::from_fd) {
                Ok(handle) => handle,
                // Replaced since.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(RowsError::map("open an inner map of", &self.name, error)),
            };
            let layout = self.inner_layout_of(handle.info(), &formats)?;
            typed &= layout.typed;
            let known = notes.len();
            notes
                .extend(layout.notes.iter().filter(|note| !notes[..known].contains(note)).cloned().collect::<Vec<_>>());
            let rows = Reader::new(&handle, &layout);
            let hide = listing::is_array(handle.info().kind) && handle.info().max_entries > FEW;
            let hide = self.hints.zeros.map_or(hide, |zeros| zeros == Zeros::Drop);
            let mut empty = true;
            each(&handle, &mut |key, value| {
                if hide && value.iter().all(|byte| *byte == 0) {
                    return;
                }
                empty = false;
                arranger.push(Some(pair(&outer, rows.key(key))), rows.value(value));
            })
            .map_err(|error| RowsError::map("read an inner map of", &self.name, error))?;
            if empty {
                arranger.push(Some(pair(&outer, None)), RawValue::One(Value::Null));
            }
        }
        Ok(typed)
    }

    /// Types of an inner map: its own, else those of the definition.
    fn inner_layout_of(&self, info: &MapInfo, formats: &Formats) -> Result<Layout, RowsError> {
        let own = Layout::of(info, Source { name: &self.name, ..Source::default() }, None, "key.inner", formats)?;
        Ok(match &self.inner_layout {
            Some(layout) if !own.typed && layout.fits(info) => layout.clone(),
            _ => own,
        })
    }

    /// Sets an element: `key` is left out for queues, stacks and bloom filters, a per-CPU value is set on every CPU. In a
    /// map of a section, `key` is the name of a variable.
    ///
    /// # Errors
    /// [`RowsError::Encode`] for a value that does not fit the type, [`RowsError::Map`] for what the kernel refuses.
    pub fn set(&self, key: Option<&Value>, value: &Value) -> Result<(), RowsError> {
        if self.info().holds_descriptors() {
            return Err(RowsError::Descriptors(self.name.clone()));
        }
        let what = format!("map {}", self.name);
        if self.layout.section {
            return self.set_variable(key, value, &what);
        }
        let key = match (&self.layout.key, key) {
            (Some(plan), Some(key)) => Some(Encoder::from_plan(plan.clone(), &what, "key").encode(key)?),
            (Some(_), None) => return Err(RowsError::Key { map: self.name.clone(), wanted: true }),
            (None, None) => None,
            (None, Some(_)) => return Err(RowsError::Key { map: self.name.clone(), wanted: false }),
        };
        let mut value = Encoder::from_plan(self.layout.value.clone(), &what, "value").encode(value)?;
        if self.info().is_per_cpu() {
            value.resize(value.len().next_multiple_of(8), 0);
            value = value.repeat(self.handle.cpus());
        }
        self.handle.update(key.as_deref(), &value, 0).map_err(|error| RowsError::map("write to", &self.name, error))
    }

    /// Changes one variable of a section and leaves the others as they are.
    fn set_variable(&self, key: Option<&Value>, value: &Value, what: &str) -> Result<(), RowsError> {
        let Some(Value::String(name)) = key else {
            return Err(RowsError::Key { map: self.name.clone(), wanted: true });
        };
        let index = vec![0; self.handle.key_len()];
        let failed = |error| RowsError::map("write to", &self.name, error);
        let bytes = self.handle.lookup(&index).map_err(failed)?.unwrap_or_default();
        let table = Value::Object([(name.clone(), value.clone())].into_iter().collect());
        let bytes = Encoder::from_plan(self.layout.value.clone(), what, "value").encode_over(bytes, &table)?;
        self.handle.update(Some(&index), &bytes, 0).map_err(failed)
    }

    /// Deletes an element; `false` if it was not there.
    ///
    /// # Errors
    /// As [`TypedMap::set`].
    pub fn delete(&self, key: &Value) -> Result<bool, RowsError> {
        let key = self.encode_key(key)?;
        self.handle.delete(&key).map_err(|error| RowsError::map("delete from", &self.name, error))
    }

    /// The value of one element, per-CPU values as a list; nothing if the map does not have it.
    ///
    /// # Errors
    /// As [`TypedMap::set`].
    pub fn get(&self, key: &Value) -> Result<Option<Value>, RowsError> {
        let key = self.encode_key(key)?;
        let found = self.handle.lookup(&key).map_err(|error| RowsError::map("read", &self.name, error))?;
        Ok(found.map(|value| match Reader::new(&self.handle, &self.layout).value(&value) {
            RawValue::One(value) => value,
            RawValue::PerCpu(values) => Value::Array(values),
        }))
    }

    fn encode_key(&self, key: &Value) -> Result<Vec<u8>, RowsError> {
        let plan = self.layout.key.clone().ok_or_else(|| RowsError::Key { map: self.name.clone(), wanted: false })?;
        Ok(Encoder::from_plan(plan, &format!("map {}", self.name), "key").encode(key)?)
    }
}

/// The key of a row of an inner map.
fn pair(outer: &Value, inner: Option<Value>) -> Value {
    let mut key = serde_json::Map::new();
    key.insert("outer".to_owned(), outer.clone());
    if let Some(inner) = inner {
        key.insert("inner".to_owned(), inner);
    }
    Value::Object(key)
}

/// Reads the elements of one map.
struct Reader {
    key: Option<Decoder>,
    value: Decoder,
    /// Bytes of a CPU's part of a value, where CPUs have parts.
    per_cpu: Option<usize>,
    /// Values that are descriptors of programs: the kernel shows numbers, which mean nothing to a reader.
    programs: bool,
    stacks: bool,
}

impl Reader {
    fn new(handle: &MapHandle, layout: &Layout) -> Self {
        let info = handle.info();
        Self {
            key: layout.key.clone().map(Decoder::from),
            value: Decoder::from(layout.value.clone()),
            per_cpu: info.is_per_cpu().then(|| (info.value_size as usize).next_multiple_of(8).max(8)),
            programs: info.kind == kind::PROG_ARRAY,
            stacks: info.kind == kind::STACK_TRACE,
        }
    }

    fn key(&self, bytes: &[u8]) -> Option<Value> {
        self.key.as_ref().map(|key| key.decode(bytes))
    }

    fn value(&self, bytes: &[u8]) -> RawValue {
        if bytes.is_empty() && self.value.size() != 0 {
            return RawValue::One(Value::Null);
        }
        if let Some(part) = self.per_cpu {
            return RawValue::PerCpu(bytes.chunks_exact(part).map(|bytes| self.value.decode(bytes)).collect());
        }
        let mut value = self.value.decode(bytes);
        if self.programs
            && let Some(id) = value.as_u64().and_then(|id| u32::try_from(id).ok())
            && let Ok(name) = sys::program_name(id)
        {
            value = Value::String(name);
        }
        if self.stacks
            && let Value::Array(addresses) = &mut value
        {
            // A stack that is less deep than the map allows ends with zeros.
            let depth = addresses.iter().rposition(|address| address != "0x0").map_or(0, |last| last + 1);
            addresses.truncate(depth);
        }
        RawValue::One(value)
    }
}

impl Layout {
    /// Whether it describes a map of these sizes.
    fn fits(&self, info: &MapInfo) -> bool {
        let key = self.key.as_ref().map_or(0, Plan::size);
        key == info.key_size as usize && self.value.size() == info.value_size as usize
    }

    fn of(
        info: &MapInfo,
        source: Source<'_>,
        types: Option<&MapTypes>,
        key_root: &str,
        formats: &Formats,
    ) -> Result<Self, RowsError> {
        let mut notes = Vec::new();
        let own = own_types(info, &mut notes);
        let mut found = Found { notes, formats, map: source.name };
        let key_ids = (own.as_ref().map(|btf| (btf, info.btf_key_type_id)), source.object, types.and_then(|t| t.key));
        let key_size = info.key_size as usize;
        let key = match (key_size, found.compile(key_ids, key_size, key_root)?) {
            (0, _) => None,
            (_, Some(plan)) => Some(plan),
            (_, None) => {
                Some(compile_bytes(listing::key_plan(info).unwrap_or(Plan::bytes(key_size)), key_root, formats)?)
            }
        };
        let size = if info.holds_descriptors() { 4 } else { info.value_size as usize };
        if let Some(plan) = found.section(info, own.as_ref(), source)? {
            return Ok(Self { key, value: plan, typed: true, section: true, notes: found.notes });
        }
        let value = match listing::value_plan(info).filter(|_| info.btf_value_type_id == 0) {
            Some(plan) => compile_bytes(plan, "value", formats)?,
            None => {
                let value_ids =
                    (own.as_ref().map(|btf| (btf, info.btf_value_type_id)), source.object, types.and_then(|t| t.value));
                let compiled = match info.kind {
                    kind::STRUCT_OPS => found.struct_ops(info, size)?,
                    _ => found.compile(value_ids, size, "value")?,
                };
                compiled.map_or_else(|| compile_bytes(Plan::bytes(size), "value", formats), Ok)?
            }
        };
        let maps = matches!(info.kind, kind::ARRAY_OF_MAPS | kind::HASH_OF_MAPS);
        let typed = key.as_ref().is_none_or(Plan::is_typed) && (maps || value.is_typed());
        Ok(Self { key, value, typed, section: false, notes: found.notes })
    }
}

/// The types that the kernel has for the map.
fn own_types(info: &MapInfo, notes: &mut Vec<String>) -> Option<Btf> {
    if info.btf_id == 0 {
        return None;
    }
    match sys::btf_by_id(info.btf_id).map_err(|error| error.to_string()) {
        Ok(blob) => Btf::parse(&blob).map_err(|error| notes.push(error.to_string())).ok(),
        Err(error) => {
            notes.push(format!("cannot read the map's types from the kernel: {error}"));
            None
        }
    }
}

/// Looks for types, and notes why some could not be used.
struct Found<'a> {
    notes: Vec<String>,
    formats: &'a Formats,
    map: &'a str,
}

/// The map's own types and the type's number there; the object's and the number there.
type Candidates<'a> = (Option<(&'a Btf, u32)>, Option<&'a Btf>, Option<u32>);

impl Found<'_> {
    fn compile(
        &mut self,
        (own, object, id): Candidates<'_>,
        size: usize,
        root: &str,
    ) -> Result<Option<Plan>, RowsError> {
        for (btf, id) in own.into_iter().chain(object.zip(id)).filter(|(_, id)| *id != 0) {
            match compile(btf, id, root, self.formats) {
                Ok(plan) if plan.size() == size => return Ok(Some(plan)),
                Ok(plan) => {
                    self.notes
                        .push(format!("{root}: its type has {} bytes, the map {size}: shown as bytes", plan.size()));
                }
                Err(error @ PlanError::Format { .. }) => return Err(error.into()),
                Err(error) => self.notes.push(error.to_string()),
            }
        }
        Ok(None)
    }

    /// The plan of a map that holds a section of variables.
    fn section(&mut self, info: &MapInfo, own: Option<&Btf>, source: Source<'_>) -> Result<Option<Plan>, RowsError> {
        if info.kind != kind::ARRAY || info.max_entries != 1 {
            return Ok(None);
        }
        let of_kernel = own.and_then(|btf| {
            let ty = btf.resolve(info.btf_value_type_id).filter(|ty| ty.kind == Kind::Section)?;
            Some((btf, ty))
        });
        let none = BTreeMap::new();
        let (btf, section, offsets) = match (of_kernel, source.object) {
            (Some((btf, section)), _) => (btf, section, &none),
            (None, Some(btf)) => match section_of(btf, self.map) {
                Some(section) => (btf, section, source.offsets.unwrap_or(&none)),
                None => return Ok(None),
            },
            _ => return Ok(None),
        };
        // Where only the symbol table has the places, all but one variable would be at 0.
        let unplaced = btf.variables(section).count() > 1 && btf.variables(section).all(|placed| placed.offset == 0);
        if unplaced && offsets.is_empty() {
            self.notes.push("the places of variables are not known: shown as bytes".to_owned());
            return Ok(None);
        }
        match compile_section(btf, section, offsets, info.value_size as usize, self.formats) {
            Ok(plan) => Ok(Some(plan)),
            Err(error @ PlanError::Format { .. }) => Err(error.into()),
            Err(error) => {
                self.notes.push(error.to_string());
                Ok(None)
            }
        }
    }

    /// The value of a `struct_ops` map is a type of the kernel's.
    fn struct_ops(&mut self, info: &MapInfo, size: usize) -> Result<Option<Plan>, RowsError> {
        match Btf::kernel() {
            Ok(btf) => self.compile((Some((btf, info.btf_vmlinux_value_type_id)), None, None), size, "value"),
            Err(error) => {
                self.notes.push(error.to_string());
                Ok(None)
            }
        }
    }
}
