//! `fota config show`

use serde_json::json;

use crate::{args::ConfigCommand, context::Context, credentials, failure::Result, text};

pub fn run(context: &Context, command: &ConfigCommand) -> Result {
    let ConfigCommand::Show { origin } = command;
    let config = &context.config;
    let token = credentials::find(config)?;
    let server = (
        config.server.value.clone(),
        config.server.origin.to_string(),
    );
    let firmware = config.firmware.as_ref();
    let firmware = firmware.map(|it| (it.value.display().to_string(), it.origin.to_string()));
    // The token itself never goes to a screen or into a log of a script.
    let token = token.map(|it| ("set".to_owned(), it.origin.to_string()));
    let ca = config.ca.as_ref();
    let ca = ca.map(|it| (it.value.display().to_string(), it.origin.to_string()));
    let shown = [
        ("server", Some(server)),
        ("firmware", firmware),
        ("token", token),
        ("ca", ca),
    ];
    let line = |(value, from): &(String, String)| match origin {
        true => format!("{value}  ({from})"),
        false => value.clone(),
    };
    let lines: Vec<(&str, String)> = shown
        .iter()
        .map(|(name, value)| (*name, value.as_ref().map_or_else(|| "-".into(), line)))
        .collect();
    context.out.answer(&text::facts(&lines));
    let fields: serde_json::Map<_, _> = shown
        .iter()
        .map(|(name, value)| {
            let value = value
                .as_ref()
                .map(|(value, origin)| json!({"value": value, "origin": origin}));
            ((*name).to_owned(), json!(value))
        })
        .collect();
    context.out.document("fota.config/1", &fields);
    Ok(())
}
