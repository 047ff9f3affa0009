//! Seeds as a whole, and their images as other programs see them.

use super::*;

fn name(text: &str) -> MachineName {
    MachineName::parse(text).unwrap()
}

fn seed() -> Seed {
    let meta = "instance-id: iid-1\nlocal-hostname: web-1\n";
    let user = "#cloud-config\nhostname: web-1.example.org\npassword: secret\n";
    Seed::parse(meta, user, Some("version: 2\nethernets: {}\n")).ok().unwrap()
}

#[test]
fn a_clone_wakes_up_with_its_own_name_and_instance_id() {
    let (clone, notes) = seed().for_clone(&name("web-5"));
    assert_eq!(clone.meta.local_hostname, name("web-5"));
    assert_ne!(clone.meta.instance_id, seed().meta.instance_id);
    assert_eq!(clone.user_data.as_str(), "#cloud-config\nhostname: web-5.example.org\npassword: secret\n");
    assert_eq!(clone.network_config, seed().network_config);
    insta::assert_snapshot!(notes.join("\n"), @"the user-data sets hostname to 'web-1.example.org': the clone's says 'web-5.example.org'");
}

#[test]
fn what_options_made_is_the_same_in_every_clone() {
    let mut options = CloudInit::new(name("web-1"));
    options.packages = vec!["vim".into()];
    options.user_data_file = Some("#!/bin/sh\nhostname web-1\n".into());
    let seed = options.seed().ok().unwrap();
    let (clone, notes) = seed.for_clone(&name("web-5"));
    assert!(clone.user_data == seed.user_data && notes.is_empty());
}

#[test]
fn a_joined_cloud_config_is_renamed_in_the_clone_too() {
    let mut options = CloudInit::new(name("web-1"));
    options.user = Some("anna".into());
    options.user_data_file = Some("#cloud-config\nhostname: web-1\nmotd: Grüße\n".into());
    let (clone, notes) = options.seed().ok().unwrap().for_clone(&name("web-5"));
    assert!(clone.user_data.as_str().contains("\nhostname: web-5\nmotd: Gr=C3=BC=C3=9Fe\n"));
    assert_eq!(notes.len(), 1);
}

#[test]
fn a_network_that_fits_one_machine_only_is_said() {
    let mut fixed = seed();
    fixed.network_config =
        Some("a:\n  match: {}\n  macaddress: '52:54:00:00:00:01'\n  addresses:\n  - 10.0.0.1/24\n".into());
    let (_, notes) = fixed.for_clone(&name("web-5"));
    insta::assert_snapshot!(notes[1..].join("\n"), @"
    the network-config names a MAC address, and a clone has others: it finds no card by it
    the network-config sets fixed addresses: the clone would take its source's
    ");
}

#[test]
fn a_seed_is_read_back_from_its_state_files() {
    let folder = tempfile::tempdir().unwrap();
    assert!(Seed::read_back(folder.path()).ok().unwrap().is_none());
    let files = seed().state_files(&name("web-1"));
    let paths: Vec<_> = files.iter().map(|file| file.path.to_str().unwrap()).collect();
    assert_eq!(paths, ["seed/meta-data", "seed/user-data", "seed/network-config", "seed.iso"]);
    for file in &files {
        let path = folder.path().join(&file.path);
        let StateContent::Bytes(bytes) = &file.content else { panic!("a copy") };
        fsio::create_dir_all(path.parent().unwrap(), 0o700).unwrap();
        fsio::replace(&path, bytes, 0o600).unwrap();
    }
    let folder = folder.path().join(SEED_FOLDER);
    assert!(Seed::read_back(&folder).ok().unwrap() == Some(seed()));
    std::fs::remove_file(folder.join("user-data")).unwrap();
    let error = Seed::read_back(&folder).err().unwrap().to_string();
    assert!(error.ends_with("it has only one of meta-data and user-data"));
}

mod image {
    use std::collections::BTreeMap;

    use kld_core::exec::Exec;

    use super::*;

    /// A reader written from ECMA-119's field tables, apart from the writer: the root folder's files by the names
    /// that `name_of` finds in a record.
    fn read(image: &[u8], descriptor: usize, name_of: fn(&[u8]) -> String) -> BTreeMap<String, Vec<u8>> {
        let le32 = |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().unwrap()) as usize;
        let be32 = |at: usize| u32::from_be_bytes(image[at..at + 4].try_into().unwrap()) as usize;
        let both = |at: usize| {
            assert_eq!(le32(at), be32(at + 4), "both byte orders agree at {at}");
            le32(at)
        };
        let volume = descriptor * 2048;
        assert_eq!(&image[volume + 1..volume + 6], b"CD001");
        assert_eq!(both(volume + 80) * 2048, image.len());
        let (root, length) = (both(volume + 158) * 2048, both(volume + 166));
        assert_eq!(le32(le32(volume + 140) * 2048 + 2) * 2048, root, "the L path table leads to the root");
        assert_eq!(be32(be32(volume + 148) * 2048 + 2) * 2048, root, "the M path table leads to the root");
        let mut found = BTreeMap::new();
        let mut at = root;
        while at < root + length && image[at] != 0 {
            let record = &image[at..at + image[at] as usize];
            if record[25] & 2 == 0 {
                let start = both(at + 2) * 2048;
                found.insert(name_of(record), image[start..start + both(at + 10)].to_vec());
            } else {
                assert_eq!(both(at + 2) * 2048, root, "both folder records are the root");
            }
            at += record.len();
        }
        found
    }

    fn identifier(record: &[u8]) -> &[u8] {
        &record[33..33 + record[32] as usize]
    }

    fn plain(record: &[u8]) -> String {
        String::from_utf8(identifier(record).to_vec()).unwrap()
    }

    fn joliet(record: &[u8]) -> String {
        let units = identifier(record).chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
        String::from_utf16(&units.collect::<Vec<_>>()).unwrap()
    }

    fn rock_ridge(record: &[u8]) -> String {
        let mut at = (33 + record[32] as usize).next_multiple_of(2);
        while record[at..].first_chunk() != Some(b"NM") {
            at += record[at + 2] as usize;
        }
        String::from_utf8(record[at + 5..at + record[at + 2] as usize].to_vec()).unwrap()
    }

    fn expected() -> BTreeMap<String, Vec<u8>> {
        seed().files().into_iter().map(|(name, content)| (name.to_string(), content)).collect()
    }

    #[test]
    fn holds_each_file_under_its_exact_name_by_rock_ridge_and_by_joliet() {
        let image = seed().iso();
        assert_eq!(read(&image, 16, rock_ridge), expected());
        assert_eq!(read(&image, 17, joliet), expected());
        let names: Vec<String> = read(&image, 16, plain).into_keys().collect();
        assert_eq!(names, ["META_DATA.;1", "NETWORK_CONFIG.;1", "USER_DATA.;1", "VENDOR_DATA.;1"]);
        assert_eq!(&image[16 * 2048 + 40..16 * 2048 + 72], format!("{:32}", "cidata").as_bytes());
        assert_eq!(&image[18 * 2048..18 * 2048 + 7], b"\xffCD001\x01");
    }

    #[test]
    fn is_small_and_the_same_for_the_same_seed() {
        assert_eq!(seed().iso(), seed().iso());
        assert_eq!(seed().iso().len(), 29 * 2048);
    }

    #[test]
    fn holds_files_longer_than_a_sector() {
        let mut long = seed();
        for length in [2047, 2048, 2049, 1 << 20] {
            let text = format!("#!/bin/sh\n{}", "#".repeat(length - 10));
            long.user_data = UserData::parse(text.clone()).ok().unwrap();
            let files = read(&long.iso(), 16, rock_ridge);
            assert_eq!(files["user-data"], text.as_bytes());
            assert_eq!(files["vendor-data"], b"");
        }
    }

    /// Each program that the host has says what it sees; those it lacks are passed over, as the reader above
    /// holds the format.
    #[test]
    fn is_understood_by_the_programs_that_read_discs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seed.iso");
        std::fs::write(&path, seed().iso()).unwrap();
        let path = path.to_str().unwrap();
        let user_data = seed().user_data.as_str().to_string();
        for (program, args, expected) in [
            ("blkid", &["-p", "-o", "value", "-s", "LABEL", path][..], "cidata\n"),
            ("file", &["-b", path], "ISO 9660 CD-ROM filesystem data 'cidata'\n"),
            ("isoinfo", &["-R", "-x", "/user-data", "-i", path], &user_data),
            ("isoinfo", &["-J", "-x", "/user-data", "-i", path], &user_data),
            ("bsdtar", &["-xO", "-f", path, "user-data"], &user_data),
        ] {
            if Exec::which(program).is_some() {
                let seen = Exec::new(program).args(args).run().unwrap();
                assert_eq!(String::from_utf8_lossy(&seen.stdout), expected, "{program} {args:?}");
            }
        }
    }
}
