use super::*;

fn disk_with(name: &str) -> (SimulatedDisk, Arc<dyn DiskFile>) {
    let disk = SimulatedDisk::new();
    let file = disk.create(Folder::Segments, name).unwrap();
    disk.sync_folder(Folder::Segments).unwrap();
    (disk, file)
}

fn left(disk: &SimulatedDisk, seed: u64) -> SimulatedDisk {
    disk.cut(disk.operations()).state(seed)
}

#[test]
fn what_is_synced_survives_every_cut_and_what_is_not_survives_some() {
    let (disk, file) = disk_with("a");
    file.write_at(0, &[1; 2048]).unwrap();
    file.sync().unwrap();
    file.write_at(2048, &[2; 2048]).unwrap();
    let mut kept = HashSet::new();
    for seed in 0..100 {
        let bytes = left(&disk, seed).contents(Folder::Segments, "a").unwrap();
        assert_eq!(bytes[..2048], [1; 2048]);
        let sectors: Vec<bool> = (4..8).map(|n| bytes.get(n * 512) == Some(&2)).collect();
        // A sector is whole or absent.
        for (n, there) in sectors.iter().enumerate() {
            let from = 2048 + n * 512;
            let sector = bytes.get(from..from + 512).unwrap_or_default();
            assert!(!there || sector == [2; 512]);
        }
        kept.insert(sectors);
    }
    assert_eq!(kept.len(), 16, "every subset of four sectors comes up");
}

#[test]
fn a_name_is_durable_with_its_folder_only() {
    let (disk, file) = disk_with("a");
    file.write_at(0, b"x").unwrap();
    file.sync().unwrap();
    disk.rename(Folder::Segments, "a", "b").unwrap();
    assert_eq!(left(&disk, 0).list(Folder::Segments).unwrap(), ["a"]);
    assert_eq!(left(&disk, 1).list(Folder::Segments).unwrap(), ["b"]);
    disk.sync_folder(Folder::Spill).unwrap();
    assert_eq!(left(&disk, 0).list(Folder::Segments).unwrap(), ["a"], "another folder's sync is no help");
    disk.sync_folder(Folder::Segments).unwrap();
    disk.unlink(Folder::Segments, "b").unwrap();
    assert_eq!(left(&disk, 0).list(Folder::Segments).unwrap(), ["b"]);
}

#[test]
fn a_failed_sync_is_never_made_up_for() {
    let (disk, file) = disk_with("a");
    file.write_at(0, &[1; 512]).unwrap();
    disk.fail_call(disk.calls(), io::ErrorKind::Other);
    assert!(file.sync().is_err());
    assert!(file.sync().is_ok());
    assert!(left(&disk, 0).contents(Folder::Segments, "a").unwrap().is_empty());
    assert_eq!(left(&disk, 1).contents(Folder::Segments, "a").unwrap(), [1; 512]);
}

#[test]
fn the_same_seed_gives_the_same_state() {
    let (disk, file) = disk_with("a");
    file.write_at(100, &[7; 5000]).unwrap();
    disk.create(Folder::Spill, "b").unwrap();
    for seed in 0..20 {
        assert_eq!(left(&disk, seed).fingerprint(), left(&disk, seed).fingerprint());
    }
    let different: HashSet<_> = (0..20).map(|seed| left(&disk, seed).fingerprint()).collect();
    assert!(different.len() > 5);
}

#[test]
fn a_full_disk_takes_no_byte_more() {
    let (disk, file) = disk_with("a");
    disk.set_capacity(Some(1000));
    file.preallocate(900).unwrap();
    assert_eq!(disk.free().unwrap(), 100);
    let other = disk.create(Folder::Spill, "b").unwrap();
    assert_eq!(other.write_at(0, &[0; 101]).unwrap_err().kind(), io::ErrorKind::StorageFull);
    file.write_at(0, &[1; 900]).unwrap();
}
