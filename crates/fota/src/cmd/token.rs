//! `fota token …`

use fota_proto::operators::{NewToken, Token, TokenRequest};
use serde_json::json;

use crate::{
    args::TokenCommand,
    clock::now_ms,
    context::Context,
    failure::{Failure, Result},
    output::Mark,
    text,
};

pub async fn run(context: &Context, command: TokenCommand) -> Result {
    let client = context.client()?;
    match command {
        TokenCommand::List => list(context, &client.tokens().await?),
        TokenCommand::Create {
            name,
            role,
            expires,
        } => {
            let request = TokenRequest {
                name,
                role,
                expires_in_s: expires.map(|expires| expires.as_secs().max(1)),
            };
            made(context, &client.create_token(&request).await?);
        }
        TokenCommand::Revoke { which } => revoke(context, &which).await?,
    }
    Ok(())
}

/// The token alone goes to stdout, so that a script can take it.
fn made(context: &Context, made: &NewToken) {
    let Token { name, role, .. } = &made.token;
    let until = made.token.expires_at.map_or_else(
        || "until it is revoked".to_owned(),
        |at| format!("until {} UTC", text::time(at)),
    );
    let text = format!("token {name} may do what a {role} may, {until}; it is shown this once:");
    context.out.note(Mark::Good, &text);
    context.out.answer(&format!("{}\n", made.secret.reveal()));
    context.out.document("fota.token/1", made);
}

fn list(context: &Context, tokens: &[Token]) {
    let now = now_ms();
    let ago = |at: Option<i64>| match at {
        Some(at) => format!("{} ago", text::age(at, now)),
        None => "never".to_owned(),
    };
    let row = |token: &Token| {
        vec![
            token.id.to_string(),
            token.name.clone(),
            token.role.to_string(),
            token.owner.clone().unwrap_or_else(|| "–".to_owned()),
            format!("{}…", token.prefix),
            ago(token.used_at),
            token.expires_at.map_or("never".to_owned(), text::time),
        ]
    };
    let rows: Vec<Vec<String>> = tokens.iter().map(row).collect();
    let heading = ["ID", "TOKEN", "ROLE", "OWNER", "BEGINS", "USED", "EXPIRES"];
    context.out.answer(&text::table(&heading, &rows));
    context.out.document("fota.tokens/1", &tokens);
}

async fn revoke(context: &Context, name: &str) -> Result {
    let client = context.client()?;
    let tokens = client.tokens().await?;
    let by_name = tokens.iter().find(|token| token.name == name);
    let by_id = || tokens.iter().find(|token| token.id.to_string() == name);
    let Some(token) = by_name.or_else(by_id) else {
        return Err(Failure::not_found(format!("there is no token {name}"))
            .hint("`fota token list` shows those that you may revoke"));
    };
    let question = format!(
        "Revoke the token {} ({}…)? What uses it stops working.",
        token.name, token.prefix
    );
    if !context.confirm(&question, "--yes").await? {
        return Err(Failure::error("nothing was changed"));
    }
    client.revoke_token(token.id).await?;
    context
        .out
        .verdict(Mark::Good, &format!("token {} revoked", token.name));
    context.out.document(
        "fota.removed/1",
        &json!({"token": token.name, "id": token.id}),
    );
    Ok(())
}
