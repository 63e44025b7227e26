//! `fota login`, `fota logout`

use fota_client::Client;
use serde_json::json;

use crate::{
    args::LoginArgs,
    context::Context,
    credentials,
    failure::{Failure, Result},
    output::Mark,
};

/// Tries the token before it is stored: a wrong one is better found now.
pub async fn login(context: &Context, args: &LoginArgs) -> Result {
    let server = &context.config.server.value;
    let token = token(context, args).await?;
    let ca = context.config.ca_pem()?;
    let client = Client::trusting(server, Some(token.clone()), ca.as_deref())
        .map_err(|error| Failure::usage(error.to_string()))?;
    let info = client.server().await?;
    let path = credentials::store(server, Some(&token))?;
    let (version, path) = (&info.version, path.display());
    context.out.verdict(
        Mark::Good,
        &format!("logged in to {server} (fota {version}); the token is in {path}"),
    );
    context.out.document(
        "fota.login/1",
        &json!({"server": server, "version": version}),
    );
    Ok(())
}

pub fn logout(context: &Context) -> Result {
    let server = &context.config.server.value;
    credentials::store(server, None)?;
    context
        .out
        .verdict(Mark::Good, &format!("no token is stored for {server}"));
    context
        .out
        .document("fota.logout/1", &json!({"server": server}));
    Ok(())
}

async fn token(context: &Context, args: &LoginArgs) -> Result<String> {
    let token = match (&context.config.token, args.token_stdin) {
        (_, true) => {
            let mut line = String::new();
            let read = std::io::stdin().read_line(&mut line);
            read.map_err(|error| Failure::error(format!("standard input: {error}")))?;
            line
        }
        (Some(token), false) => token.value.clone(),
        (None, false) => typed(context).await?,
    };
    let token = token.trim().to_owned();
    match token.is_empty() {
        true => Err(Failure::usage("no token was given")),
        false => Ok(token),
    }
}

/// Asks for the token without showing it.
async fn typed(context: &Context) -> Result<String> {
    if !context.out.may_ask() {
        return Err(
            Failure::usage("refusing to prompt: standard input is not a terminal")
                .hint("add --token T or --token-stdin, or set FOTA_TOKEN"),
        );
    }
    crate::output::to_stderr("Token (file operator-token in the server's data folder): ");
    let read = tokio::task::spawn_blocking(|| console::Term::stderr().read_secure_line());
    let line = read
        .await
        .map_err(|error| Failure::error(error.to_string()))?;
    line.map_err(|error| Failure::error(format!("standard input: {error}")))
}
