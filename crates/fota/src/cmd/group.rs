//! `fota group …`

use fota_proto::manager::{Group, GroupRule};
use serde_json::json;

use crate::{
    args::GroupCommand,
    context::Context,
    failure::{Failure, Result},
    output::Mark,
    text,
};

pub async fn run(context: &Context, command: GroupCommand) -> Result {
    let client = context.client()?;
    match command {
        GroupCommand::List => list(context, &client.groups().await?),
        GroupCommand::Create { name } => show(context, &client.create_group(&name).await?),
        GroupCommand::Add { name, devices } => {
            show(context, &client.add_to_group(&name, devices).await?);
        }
        GroupCommand::Remove { name, devices } => {
            for device in &devices {
                client.remove_from_group(&name, device).await?;
            }
            let groups = client.groups().await?;
            let group = groups.into_iter().find(|group| group.name == name);
            let gone = || Failure::not_found(format!("there is no group {name}"));
            show(context, &group.ok_or_else(gone)?);
        }
        GroupCommand::Rule {
            name,
            filter,
            bandwidth,
        } => {
            let rule = GroupRule {
                filter,
                bytes_per_s: bandwidth,
            };
            show(context, &client.set_group_rule(&name, &rule).await?);
        }
        GroupCommand::Rm { name } => remove(context, &name).await?,
    }
    Ok(())
}

async fn remove(context: &Context, name: &str) -> Result {
    let question = format!("Remove the group {name}? Its devices stay.");
    if !context.confirm(&question, "--yes").await? {
        return Err(Failure::error("nothing was changed"));
    }
    context.client()?.remove_group(name).await?;
    context
        .out
        .verdict(Mark::Good, &format!("group {name} removed"));
    context
        .out
        .document("fota.removed/1", &json!({"group": name}));
    Ok(())
}

fn list(context: &Context, groups: &[Group]) {
    let rows: Vec<Vec<String>> = groups
        .iter()
        .map(|group| {
            let number = group.devices.len().to_string();
            vec![group.name.clone(), number, group.devices.join(" ")]
        })
        .collect();
    context
        .out
        .answer(&text::table(&["GROUP", "COUNT", "DEVICES"], &rows));
    context.out.document("fota.groups/1", &groups);
}

fn show(context: &Context, group: &Group) {
    let number = text::count(group.devices.len() as u64, "device");
    let line = format!("group {}: {number} {}", group.name, group.devices.join(" "));
    context.out.verdict(Mark::Good, line.trim_end());
    context.out.document("fota.group/1", group);
}
