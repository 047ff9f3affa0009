//! Which paths a definition names.

use std::path::{Path, PathBuf};

use super::Definition;
use super::xml::Element;

impl Definition {
    /// The paths at or below this folder that its firmware and its devices name, each once: disks and what stands
    /// behind them, UEFI variables, and whatever else opens one. What only speaks of a path (metadata, a description)
    /// opens none.
    pub fn paths_below(&self, folder: &Path) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        let parts = self.root().elements().filter(|part| matches!(part.name(), "os" | "devices"));
        parts.for_each(|part| collect(part, folder, &mut paths));
        paths.sort();
        paths.dedup();
        paths
    }
}

fn collect(element: &Element, folder: &Path, paths: &mut Vec<PathBuf>) {
    let text = element.text();
    let values = element.attributes().map(|(_, value)| value).chain([text.trim()]);
    paths.extend(values.map(Path::new).filter(|path| path.starts_with(folder)).map(Path::to_path_buf));
    element.elements().for_each(|child| collect(child, folder, paths));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_that_a_machine_opens_is_found_and_no_other() {
        let definition = Definition::parse(
            "<domain><name>web</name><metadata><note path='/dev/zvol/tank/metadata'/></metadata>\
             <description>/dev/zvol/tank/description</description>\
             <os><nvram>/dev/zvol/tank/nvram</nvram></os>\
             <devices>\
             <disk type='block'><source dev='/dev/zvol/tank/web/vda'/><target dev='vda'/></disk>\
             <disk type='file'><source file='/dev//zvol/./tank/file'/><target dev='vdb'/></disk>\
             <disk type='file'><source file='/srv/a.qcow2'/>\
             <backingStore type='block'><source dev='/dev/zvol/tank/base'/></backingStore></disk>\
             <disk type='block'><source dev='/dev/zvol/tank/web/vda'/><target dev='vdc'/></disk>\
             <disk type='block'><source dev='/dev/zvolume/tank'/></disk>\
             <disk type='block'><source dev='/dev/sda'/></disk>\
             </devices></domain>",
        );
        let paths = definition.unwrap().paths_below(Path::new("/dev/zvol"));
        let wanted = ["file", "base", "nvram", "web/vda"].map(|name| format!("/dev/zvol/tank/{name}"));
        let mut wanted = wanted.map(PathBuf::from);
        wanted.sort();
        assert_eq!(paths, wanted);
    }
}
