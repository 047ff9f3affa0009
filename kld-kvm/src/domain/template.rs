//! The mark of a template: a machine that is cloned and never started.
//!
//! The mark has two parts. The metadata says it to kld. A firmware configuration entry that names a file which does
//! not exist says it to everybody else: `virsh start` fails, and the file's name in the error tells why.

use super::Definition;
use super::xml::Element;

/// The namespace of kld's metadata.
const NAMESPACE: &str = "https://kld.dev/ns/machine/1";
/// The name of the firmware configuration entry.
const ENTRY: &str = "opt/org.kld/template";
/// The path that is printed when somebody starts a template.
const NOTICE: &str =
    "/nonexistent/this machine is a template - clone it, or thaw it with kvm-template --undo";

impl Definition {
    /// True for a template.
    pub fn is_template(&self) -> bool {
        let root = self.root();
        root.child("metadata").is_some_and(|metadata| {
            metadata
                .elements()
                .filter(|child| belongs(root, metadata, child))
                .any(|machine| machine.elements().any(|mark| local(mark.name()) == "template"))
        })
    }

    /// Makes it a template, or an ordinary machine again; undoing removes exactly what marking added.
    pub fn set_template(&mut self, yes: bool) {
        // From a clean slate: half a mark, left by an edit, becomes a whole one or none.
        self.unmark();
        if yes {
            self.mark();
        }
    }

    fn mark(&mut self) {
        let root = self.root_mut();
        let scope = root.shell();
        if root.child("metadata").is_none() {
            root.append_after(
                &["name", "uuid", "hwuuid", "genid", "title", "description"],
                Element::new("metadata"),
                1,
            );
        }
        let metadata = root.ensure("metadata", 1);
        let outer = metadata.shell();
        let known = metadata.elements_mut().find(|child| belongs(&scope, &outer, child));
        match known {
            Some(machine) => {
                let name = match machine.name().split_once(':') {
                    Some((prefix, _)) => format!("{prefix}:template"),
                    None => "template".to_string(),
                };
                machine.append(Element::new(name), 3);
            }
            None => {
                let machine = Element::new("kld:machine")
                    .with("xmlns:kld", NAMESPACE)
                    .with_child(Element::new("kld:template"));
                metadata.append(machine, 2);
            }
        }

        let entry = Element::new("entry").with("name", ENTRY).with("file", NOTICE);
        let is_fwcfg = |sysinfo: &Element| sysinfo.name() == "sysinfo" && sysinfo.is("type", "fwcfg");
        if !root.elements().any(is_fwcfg) {
            root.append(Element::new("sysinfo").with("type", "fwcfg"), 1);
        }
        if let Some(sysinfo) = root.elements_mut().find(|child| is_fwcfg(child)) {
            sysinfo.append(entry, 2);
        }
    }

    fn unmark(&mut self) {
        let root = self.root_mut();
        let scope = root.shell();
        if let Some(metadata) = root.child_mut("metadata") {
            let outer = metadata.shell();
            let mut removed = 0;
            for machine in metadata.elements_mut().filter(|child| belongs(&scope, &outer, child)) {
                removed += machine.remove(|mark| local(mark.name()) == "template");
            }
            let emptied = |child: &Element| belongs(&scope, &outer, child) && child.nodes().is_empty();
            if removed > 0 && metadata.remove(emptied) > 0 && metadata.nodes().is_empty() {
                root.remove(|child| child.name() == "metadata");
            }
        }
        let is_entry = |entry: &Element| entry.name() == "entry" && entry.is("name", ENTRY);
        root.remove(|sysinfo| {
            sysinfo.name() == "sysinfo"
                && sysinfo.is("type", "fwcfg")
                && sysinfo.elements().all(is_entry)
                && sysinfo.elements().next().is_some()
        });
        for sysinfo in root.children_mut("sysinfo") {
            sysinfo.remove(is_entry);
        }
    }
}

fn local(name: &str) -> &str {
    name.rsplit_once(':').map_or(name, |(_, local)| local)
}

/// True for kld's own element, whatever prefix it has and wherever that is declared.
fn belongs(root: &Element, metadata: &Element, child: &Element) -> bool {
    let declaration = match child.name().split_once(':') {
        Some((prefix, _)) => format!("xmlns:{prefix}"),
        None => "xmlns".to_string(),
    };
    local(child.name()) == "machine"
        && [child, metadata, root].iter().find_map(|element| element.get(&declaration)) == Some(NAMESPACE)
}
