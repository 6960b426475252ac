//! A disk in memory behaves like one of the operating system, as far as the broker can tell.

use super::*;

fn disk() -> MemoryDisk {
    let disk = MemoryDisk::default();
    disk.create_dir(Path::new("/journals/000"))
        .expect("directories can be made");
    disk
}

fn kind<T>(result: io::Result<T>) -> Option<io::ErrorKind> {
    result.err().map(|error| error.kind())
}

#[test]
fn a_preallocated_file_reads_as_zeros_and_takes_memory_where_it_is_written() {
    let disk = disk();
    let path = Path::new("/journals/000/a.seg");
    disk.create(path, 4 << 20).expect("the file can be made");
    assert_eq!(disk.allocated_bytes(), 0);
    let file = disk.open(path).expect("it is there");
    let across = to_u64(CHUNK_BYTES) - 3;
    file.write(across, b"hello");
    assert_eq!(disk.allocated_bytes(), 2 * CHUNK_BYTES);
    let mut read = [9; 9];
    assert_eq!(file.read(across - 2, &mut read), 9);
    assert_eq!(&read, b"\0\0hello\0\0");
    assert_eq!(file.read((4 << 20) - 2, &mut read), 2, "up to its end");
    assert_eq!(file.read(5 << 20, &mut read), 0, "nothing behind it");
    assert_eq!(disk.read(path).expect("readable").len(), 4 << 20);
}

#[test]
fn what_is_removed_or_replaced_gives_its_memory_back_when_nobody_has_it_open() {
    let disk = disk();
    let (one, two) = (Path::new("/journals/one"), Path::new("/journals/two"));
    disk.replace(one, b"first").expect("written");
    let open = disk.open(one).expect("it is there");
    disk.replace(one, b"second").expect("replaced");
    let mut read = [0; 5];
    open.read(0, &mut read);
    assert_eq!(&read, b"first", "an open file stays what it was");
    disk.rename(one, two).expect("renamed");
    assert_eq!(kind(disk.read(one)), Some(io::ErrorKind::NotFound));
    assert_eq!(disk.read(two).expect("readable"), b"second");
    disk.remove(two).expect("removed");
    assert_eq!(disk.allocated_bytes(), 0);
}

#[test]
fn names_follow_the_rules_of_a_file_system() {
    let disk = disk();
    let path = Path::new("/journals/000/b");
    disk.create(path, 0).expect("the file can be made");
    assert_eq!(
        kind(disk.create(path, 0)),
        Some(io::ErrorKind::AlreadyExists)
    );
    let astray = Path::new("/nowhere/b");
    assert_eq!(kind(disk.create(astray, 0)), Some(io::ErrorKind::NotFound));
    assert_eq!(
        kind(disk.replace(astray, b"")),
        Some(io::ErrorKind::NotFound)
    );
    assert_eq!(
        kind(disk.rename(path, astray)),
        Some(io::ErrorKind::NotFound)
    );
    assert_eq!(kind(disk.remove(astray)), Some(io::ErrorKind::NotFound));
    let below = path.join("c");
    assert_eq!(
        kind(disk.create_dir(&below)),
        Some(io::ErrorKind::NotADirectory)
    );
    let directory = Path::new("/journals");
    assert_eq!(
        kind(disk.read(directory)),
        Some(io::ErrorKind::IsADirectory)
    );
    disk.create_dir(directory).expect("it may be there");
}

#[test]
fn a_directory_lists_what_is_in_it_and_not_below() {
    let disk = disk();
    for name in ["b", "a", "000/deep"] {
        let path = Path::new("/journals").join(name);
        disk.replace(&path, b"xy").expect("written");
    }
    // Sorts between the directory and what is in it.
    disk.create_dir(Path::new("/journals-of-others"))
        .expect("made");
    let listed = disk.list(Path::new("/journals")).expect("listed");
    let entries: Vec<_> = listed
        .iter()
        .map(|entry| (entry.name.as_str(), entry.bytes, entry.is_directory))
        .collect();
    assert_eq!(
        entries,
        [("000", 0, true), ("a", 2, false), ("b", 2, false)]
    );
    assert_eq!(
        kind(disk.list(Path::new("/none"))),
        Some(io::ErrorKind::NotFound)
    );
}
