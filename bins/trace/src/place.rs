//! `--by`: requests by disk, by ZFS volume, or by machine.

use clap::{Arg, ArgMatches};
use kld_ebpf::events::block::DISK;
use kld_ebpf::events::text;
use kld_ebpf::probe::PASSED_ON;
use kld_ebpf::volumes::{Machine, Volume, Volumes};
use serde_json::{Map, Value};

use crate::args::Wanted;
use crate::histogram::Labels;
use crate::view::View;

/// What requests are told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The disk.
    Disk,
    /// The ZFS volume; other disks as they are.
    Zvol,
    /// The machine, all its volumes together; volumes of none, and other disks, as they are.
    Machine,
}

const WORDS: [(&str, By); 3] = [("machine", By::Machine), ("zvol", By::Zvol), ("disk", By::Disk)];

impl By {
    /// What a column is called in which the places are.
    pub fn heading(self) -> &'static str {
        match self {
            By::Disk => "DISK",
            By::Zvol => "DATASET",
            By::Machine => "MACHINE",
        }
    }
}

/// The flag.
pub fn by() -> Arg {
    Arg::new("by")
        .long("by")
        .value_name("WHAT")
        .value_parser(WORDS.map(|(word, _)| word))
        .help("Tell requests apart by what they go to, and see disks that pass on what they get, as ZFS volumes, too")
}

/// What the flag says; `None` where it is not given, or the tool has none.
pub fn given(matches: &ArgMatches) -> Option<By> {
    let word = matches.try_get_one::<String>("by").ok().flatten()?;
    WORDS.iter().find(|(own, _)| own == word).map(|(_, by)| *by)
}

/// Has disks that pass on seen where the flag is given; returns whether it is.
pub fn want(matches: &ArgMatches, wanted: &mut Wanted) -> bool {
    let given = given(matches).is_some();
    wanted.filter.switches |= if given { PASSED_ON } else { 0 };
    given
}

/// Where requests go; what does not hold of all that go there, or is not known, is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    machine: Option<Machine>,
    dataset: Option<String>,
    origin: Option<String>,
    disk: Option<String>,
}

impl Place {
    fn of(by: By, disk: &str, volume: Option<&Volume>) -> Place {
        let machine = volume.and_then(|volume| volume.machine.clone());
        if let (By::Machine, Some(machine)) = (by, &machine) {
            let dataset = Some(machine.dataset.clone());
            return Place { machine: Some(machine.clone()), dataset, origin: None, disk: None };
        }
        Place {
            machine,
            dataset: volume.map(|volume| volume.dataset.clone()),
            origin: volume.and_then(|volume| volume.origin.clone()),
            disk: Some(disk.to_string()),
        }
    }

    /// The machine's name.
    pub fn machine(&self) -> Option<&str> {
        self.machine.as_ref().map(|machine| machine.name.as_str())
    }

    /// The dataset: the volume's, or the machine's where its volumes are told together.
    pub fn dataset(&self) -> Option<&str> {
        self.dataset.as_deref()
    }

    /// For programs: every field is always there.
    pub fn json(&self) -> Map<String, Value> {
        let uuid = self.machine.as_ref().map(|machine| machine.uuid.as_str());
        let fields = [
            ("machine", self.machine()),
            ("uuid", uuid),
            ("dataset", self.dataset()),
            ("origin", self.origin.as_deref()),
            ("disk", self.disk.as_deref()),
        ];
        fields.into_iter().map(|(name, value)| (name.to_string(), value.into())).collect()
    }
}

/// What programs are told of the place that a mark stands for; nothing where places are not asked for.
pub fn details(mark: &[u8; DISK], view: &View) -> Map<String, Value> {
    let place = view.places.as_ref().and_then(|places| places.marked(mark));
    place.map(Place::json).unwrap_or_default()
}

/// The places that there were requests to.
#[derive(Debug)]
pub struct Places {
    by: By,
    volumes: Volumes,
    all: Vec<Place>,
}

impl Places {
    /// None yet.
    pub fn new(by: By) -> Places {
        Places { by, volumes: Volumes::default(), all: Vec::new() }
    }

    /// What they are told apart by.
    pub fn by(&self) -> By {
        self.by
    }

    /// The place that a disk is, or belongs to, now.
    pub fn of(&mut self, disk: &str) -> Place {
        Place::of(self.by, disk, self.volumes.of(disk))
    }

    /// What stands in a key for the disk's place, where else the disk's name is: its number, in digits. A place is longer
    /// than a disk's name, and another one tomorrow may have that.
    pub fn mark(&mut self, disk: &[u8; DISK]) -> [u8; DISK] {
        let place = self.of(text(disk));
        let labels = self.labels_of(&place);
        let known = self.all.iter().position(|known| self.labels_of(known) == labels);
        let number = known.unwrap_or(self.all.len());
        match self.all.get_mut(number) {
            Some(known) => *known = place,
            None => self.all.push(place),
        }
        let mut mark = [0; DISK];
        let digits = format!("{number:08}");
        mark[..digits.len()].copy_from_slice(digits.as_bytes());
        mark
    }

    /// The place that a mark stands for.
    pub fn marked(&self, mark: &[u8; DISK]) -> Option<&Place> {
        self.all.get(text(mark).parse::<usize>().ok()?)
    }

    /// What a place is called, in tables and for Prometheus: different for any two.
    pub fn labels(&self, mark: &[u8; DISK]) -> Labels {
        self.marked(mark).map(|place| self.labels_of(place)).unwrap_or_default()
    }

    fn labels_of(&self, place: &Place) -> Labels {
        let fields = [
            (By::Machine, "machine", place.machine()),
            (By::Zvol, "dataset", place.dataset()),
            (By::Disk, "disk", place.disk.as_deref()),
        ];
        let fits = |by: By| match self.by {
            By::Machine => by != By::Disk || place.dataset.is_none(),
            By::Zvol => by == By::Zvol || by == By::Disk && place.dataset.is_none(),
            By::Disk => by == By::Disk,
        };
        let fields = fields.into_iter().filter(|(by, ..)| fits(*by));
        fields.filter_map(|(_, name, value)| Some((name, value?.into()))).collect()
    }

    /// Why the first volume that could not be found out about could not.
    pub fn failure(&self) -> Option<String> {
        self.volumes.failure().map(|error| match error.hint() {
            Some(hint) => format!("{error} ({hint})"),
            None => error.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// zd0 and zd16 are a machine's, zd32 is nobody's, and sda is no volume.
    fn volume(disk: &str) -> Option<Volume> {
        let machine = Machine { name: "web-5".into(), uuid: "u-5".into(), dataset: "tank/kld/web-5".into() };
        let origin = Some("tank/kld/template/vda@1".to_string());
        match disk {
            "zd0" => Some(Volume { dataset: "tank/kld/web-5/vda".into(), origin, machine: Some(machine) }),
            "zd16" => {
                Some(Volume { dataset: "tank/kld/web-5/vdb".into(), origin: None, machine: Some(machine) })
            }
            "zd32" => Some(Volume { dataset: "tank/other".into(), origin: None, machine: None }),
            _ => None,
        }
    }

    fn json(by: By, disk: &str) -> String {
        Value::Object(Place::of(by, disk, volume(disk).as_ref()).json()).to_string()
    }

    fn labels(by: By, disk: &str) -> String {
        let labels = Places::new(by).labels_of(&Place::of(by, disk, volume(disk).as_ref()));
        labels.iter().map(|(name, value)| format!("{name}={} ", value.as_str().unwrap())).collect()
    }

    #[test]
    fn a_machine_s_volumes_are_one_place_by_machine() {
        let wanted =
            r#"{"dataset":"tank/kld/web-5","disk":null,"machine":"web-5","origin":null,"uuid":"u-5"}"#;
        assert_eq!([json(By::Machine, "zd0"), json(By::Machine, "zd16")], [wanted, wanted]);
        assert_eq!(labels(By::Machine, "zd0"), "machine=web-5 dataset=tank/kld/web-5 ");
    }

    #[test]
    fn a_volume_is_a_place_of_its_own_by_zvol_with_its_machine_and_its_origin() {
        let wanted = r#"{"dataset":"tank/kld/web-5/vda","disk":"zd0","machine":"web-5","origin":"tank/kld/template/vda@1","uuid":"u-5"}"#;
        assert_eq!([json(By::Zvol, "zd0"), json(By::Disk, "zd0")], [wanted, wanted]);
        assert_eq!(labels(By::Zvol, "zd0"), "dataset=tank/kld/web-5/vda ");
        assert_eq!(labels(By::Disk, "zd0"), "disk=zd0 ");
    }

    #[test]
    fn what_is_no_machine_s_is_told_as_what_it_is() {
        let of = |disk| [By::Machine, By::Zvol, By::Disk].map(|by| labels(by, disk));
        assert_eq!(of("zd32"), ["dataset=tank/other ", "dataset=tank/other ", "disk=zd32 "]);
        assert_eq!(of("sda"), ["disk=sda "; 3]);
        let wanted = r#"{"dataset":null,"disk":"sda","machine":null,"origin":null,"uuid":null}"#;
        assert_eq!(json(By::Machine, "sda"), wanted);
    }

    #[test]
    fn a_place_keeps_its_mark() {
        let mut places = Places::new(By::Machine);
        let name = |name: &str| {
            let mut bytes = [0; DISK];
            bytes[..name.len()].copy_from_slice(name.as_bytes());
            bytes
        };
        let marks = ["sda", "sdb", "sda"].map(|disk| places.mark(&name(disk)));
        assert_eq!((marks[0], marks[0] == marks[1]), (marks[2], false));
        let disks = marks.map(|mark| places.marked(&mark).unwrap().disk.clone().unwrap());
        assert_eq!((disks, places.marked(&name("sda"))), (["sda", "sdb", "sda"].map(String::from), None));
    }
}
