//! `fota user …`

use fota_proto::operators::{PasswordRequest, Secret, User, UserRequest};
use serde_json::json;

use super::login::stdin_line;
use crate::{
    args::UserCommand,
    clock::now_ms,
    context::Context,
    failure::{Failure, Result},
    output::Mark,
    text,
};

pub async fn run(context: &Context, command: UserCommand) -> Result {
    let client = context.client()?;
    match command {
        UserCommand::List => list(context, &client.users().await?),
        UserCommand::Create {
            name,
            role,
            password_stdin,
        } => {
            let password = new_password(context, password_stdin).await?;
            let request = UserRequest {
                name,
                role,
                password,
            };
            show(context, &client.create_user(&request).await?);
        }
        UserCommand::Passwd {
            name,
            password_stdin,
        } => set_password(context, &name, password_stdin).await?,
        UserCommand::Role { name, role } => show(context, &client.set_role(&name, role).await?),
        UserCommand::Rm { name } => remove(context, &name).await?,
    }
    Ok(())
}

async fn new_password(context: &Context, is_on_stdin: bool) -> Result<Secret> {
    if is_on_stdin {
        return Ok(Secret::new(stdin_line()?));
    }
    let ask = |question| context.out.ask_secret(question, "--password-stdin");
    let first = ask("New password (12 characters or more): ").await?;
    let again = ask("The same again: ").await?;
    match first == again {
        true => Ok(Secret::new(first)),
        false => Err(Failure::usage(
            "the two are not the same: nothing was changed",
        )),
    }
}

async fn set_password(context: &Context, name: &str, is_on_stdin: bool) -> Result {
    let client = context.client()?;
    let is_own = client.whoami().await?.actor == format!("user:{name}");
    let current = match (is_own, is_on_stdin) {
        (false, _) => None,
        (true, true) => Some(stdin_line()?),
        (true, false) => {
            let asked = context
                .out
                .ask_secret("Password until now: ", "--password-stdin");
            Some(asked.await?)
        }
    };
    let request = PasswordRequest {
        password: new_password(context, is_on_stdin).await?,
        current: current.map(Secret::new),
    };
    client.set_password(name, &request).await?;
    let next = match is_own {
        true => "; log in again",
        false => "",
    };
    let text = format!("the password of {name} is set, all sessions have ended{next}");
    context.out.verdict(Mark::Good, &text);
    context
        .out
        .document("fota.password/1", &json!({"user": name}));
    Ok(())
}

async fn remove(context: &Context, name: &str) -> Result {
    let question = format!("Remove the user {name}, with all sessions and tokens?");
    if !context.confirm(&question, "--yes").await? {
        return Err(Failure::error("nothing was changed"));
    }
    context.client()?.remove_user(name).await?;
    context
        .out
        .verdict(Mark::Good, &format!("user {name} removed"));
    context
        .out
        .document("fota.removed/1", &json!({"user": name}));
    Ok(())
}

fn list(context: &Context, users: &[User]) {
    let now = now_ms();
    let row = |user: &User| {
        let sessions = user.sessions.to_string();
        let set = format!("{} ago", text::age(user.password_at, now));
        vec![user.name.clone(), user.role.to_string(), sessions, set]
    };
    let rows: Vec<Vec<String>> = users.iter().map(row).collect();
    let heading = ["USER", "ROLE", "SESSIONS", "PASSWORD SET"];
    context.out.answer(&text::table(&heading, &rows));
    context.out.document("fota.users/1", &users);
}

fn show(context: &Context, user: &User) {
    let line = format!("user {} has the role {}", user.name, user.role);
    context.out.verdict(Mark::Good, &line);
    context.out.document("fota.user/1", user);
}
