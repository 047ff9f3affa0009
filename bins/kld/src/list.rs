//! `kld --list`: the catalog as a table or as JSON. Starts no other program.

use kld_catalog::FAMILIES;
use kld_core::Result;
use kld_core::ui::Ui;

pub fn list(ui: &Ui) -> Result<()> {
    if ui.json {
        let tools = FAMILIES.iter().flat_map(|family| {
            family.tools.iter().map(
                |tool| serde_json::json!({"name": tool.name, "about": tool.about, "program": family.program}),
            )
        });
        return ui.json(&serde_json::json!({"version": 1, "tools": tools.collect::<Vec<_>>()}));
    }
    let tools = || FAMILIES.iter().flat_map(|family| family.tools);
    let width = tools().map(|tool| tool.name.len()).max().unwrap_or(0);
    let text: String = tools().map(|tool| format!("{:<width$}  {}\n", tool.name, tool.about)).collect();
    ui.raw(text.as_bytes())
}
