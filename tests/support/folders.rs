//! What lies in a folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Names, in order.
pub fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a folder");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The bytes of each file.
pub fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    names(dir).into_iter().map(|name| (name.clone(), fs::read(dir.join(name)).expect("a file"))).collect()
}

/// The same files with the same bytes; else says which differ.
#[track_caller]
pub fn assert_same(left: &BTreeMap<String, Vec<u8>>, right: &BTreeMap<String, Vec<u8>>) {
    assert_eq!(left.keys().collect::<Vec<_>>(), right.keys().collect::<Vec<_>>());
    let unlike: Vec<_> = left.iter().filter(|(name, bytes)| right[*name] != **bytes).collect();
    assert!(unlike.is_empty(), "{:?}", unlike.iter().map(|(name, _)| name).collect::<Vec<_>>());
}
