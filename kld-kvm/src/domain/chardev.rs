//! Files, sockets and ports of a machine's character devices, which two machines cannot share.

use super::runtime::CHARDEVS;
use super::xml::Element;

/// Moves logs and sockets that are named after the old machine; tells of what both machines would use.
pub(super) fn rename(device: &mut Element, old: &str, new: &str, notes: &mut Vec<String>) {
    if !CHARDEVS.contains(&device.name()) {
        return;
    }
    let backend = device.child("backend").and_then(|backend| backend.get("type"));
    let kind = device.get("type").or(backend).unwrap_or_default().to_string();
    // The first console is the first serial port once more.
    let target = device.child("target").and_then(|target| target.get("type"));
    let what = match (device.name(), target) {
        ("console", None | Some("serial")) => "serial".to_string(),
        (name, _) => name.to_string(),
    };
    let mut note = |note: String| {
        if !notes.contains(&note) {
            notes.push(note);
        }
    };
    let mut sources: Vec<&mut Element> = Vec::new();
    for child in device.elements_mut() {
        match child.name() {
            "source" | "log" => sources.push(child),
            // An entropy daemon's socket lies one level deeper.
            "backend" => sources.extend(child.children_mut("source")),
            _ => {}
        }
    }
    for source in sources {
        let attribute = if source.name() == "log" { "file" } else { "path" };
        let path = source.get(attribute).map(str::to_string);
        match (kind.as_str(), path) {
            ("dev", Some(path)) if source.name() == "source" => note(format!(
                "both machines use {path} as their {what} device: '{new}' cannot run at the same time as '{old}'"
            )),
            (_, Some(path)) => match renamed(&path, old, new) {
                Some(moved) => {
                    note(format!("the {what} device has {moved} instead of {path}"));
                    source.set(attribute, moved);
                }
                None => {
                    note(format!("both machines have {path} as their {what} device: give the clone its own"))
                }
            },
            ("tcp" | "udp", None) if !source.is("mode", "connect") => {
                if let Some(port) = source.get("service") {
                    note(format!(
                        "both machines listen on port {port} as their {what} device: '{new}' cannot run at the same \
                         time as '{old}'"
                    ));
                }
            }
            _ => {}
        }
    }
}

/// The path with the old name in it replaced by the new one, where that stands as a word of its own; `None` where it
/// does not. `web` is a word of `/var/log/web-serial.log`, and none of `/srv/website.log`.
pub(super) fn renamed(path: &str, old: &str, new: &str) -> Option<String> {
    if old.is_empty() {
        return None;
    }
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    let mut found = false;
    while let Some(at) = rest.find(old) {
        let (head, tail) = (&rest[..at], &rest[at + old.len()..]);
        out.push_str(head);
        let word = |c: char| c.is_alphanumeric();
        if out.ends_with(word) || tail.starts_with(word) {
            out.push_str(old);
        } else {
            out.push_str(new);
            found = true;
        }
        rest = tail;
    }
    out.push_str(rest);
    found.then_some(out)
}
