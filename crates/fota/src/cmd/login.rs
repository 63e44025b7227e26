//! `fota login`, `fota logout`, `fota whoami`

use fota_client::Client;
use fota_proto::operators::{Secret, WhoAmI};
use serde_json::json;

use crate::{
    args::LoginArgs,
    context::Context,
    credentials,
    failure::{Failure, Result},
    output::Mark,
    text,
};

/// The flags that answer every question of a login.
const INSTEAD: &str =
    "--token T, --token-stdin, or --user NAME --password-stdin, or set FOTA_TOKEN";

/// What lets somebody in.
enum Way {
    Token(String),
    Password { user: String, password: Secret },
}

/// Tries the password or token before anything is stored: a wrong one is better found now.
pub async fn login(context: &Context, args: &LoginArgs) -> Result {
    let server = &context.config.server.value;
    let token = match way(context, args).await? {
        Way::Token(token) => token,
        Way::Password { user, password } => {
            let login = client(context, None)?.login(&user, password).await?;
            login.token.reveal().to_owned()
        }
    };
    let who = client(context, Some(token.clone()))?.whoami().await?;
    let path = credentials::store(server, Some(&token))?;
    context.out.verdict(
        Mark::Good,
        &format!(
            "logged in to {server} as {}; kept in {}",
            shown(&who),
            path.display()
        ),
    );
    context.out.document(
        "fota.login/1",
        &json!({"server": server, "actor": who.actor, "role": who.role, "expires_at": who.expires_at}),
    );
    Ok(())
}

fn client(context: &Context, token: Option<String>) -> Result<Client> {
    let (server, ca) = (&context.config.server.value, context.config.ca_pem()?);
    Client::trusting(server, token, ca.as_deref())
        .map_err(|error| Failure::usage(error.to_string()))
}

/// Forgets the token. A session ends at the server too; where that cannot be asked, it ends by
/// itself.
pub async fn logout(context: &Context) -> Result {
    let server = &context.config.server.value;
    if let Some(token) = credentials::stored(server)? {
        if let Err(error) = client(context, Some(token))?.logout().await
            && error.problem().is_none()
        {
            let text = format!("{error}: a session there ends by itself within a week");
            context.out.warn(&text);
        }
        credentials::store(server, None)?;
    }
    context
        .out
        .verdict(Mark::Good, &format!("no token is stored for {server}"));
    context
        .out
        .document("fota.logout/1", &json!({"server": server}));
    Ok(())
}

pub async fn whoami(context: &Context) -> Result {
    let who = context.client()?.whoami().await?;
    context.out.answer(&format!("{}\n", shown(&who)));
    context.out.document("fota.whoami/1", &who);
    Ok(())
}

fn shown(who: &WhoAmI) -> String {
    let until = who
        .expires_at
        .map(|at| format!(", until {} UTC", text::time(at)));
    let until = until.unwrap_or_default();
    format!("{} ({}{until})", who.actor, who.role)
}

async fn way(context: &Context, args: &LoginArgs) -> Result<Way> {
    if let Some(user) = &args.user {
        return password_of(context, user.clone(), args.password_stdin).await;
    }
    if args.token_stdin {
        return token(stdin_line()?);
    }
    if let Some(given) = &context.config.token {
        return token(given.value.clone());
    }
    let question = "User (nothing: log in with a token): ";
    let user = context.out.ask(question, INSTEAD).await?;
    match user.filter(|user| !user.is_empty()) {
        Some(user) => password_of(context, user, false).await,
        None => {
            let question = "Token (the first is in operator-token in the server's data folder): ";
            token(context.out.ask_secret(question, INSTEAD).await?)
        }
    }
}

async fn password_of(context: &Context, user: String, is_on_stdin: bool) -> Result<Way> {
    let password = match is_on_stdin {
        true => Secret::new(stdin_line()?),
        false => {
            let asked = context.out.ask_secret("Password: ", "--password-stdin");
            Secret::new(asked.await?)
        }
    };
    Ok(Way::Password { user, password })
}

fn token(text: String) -> Result<Way> {
    match text.trim() {
        "" => Err(Failure::usage("no token was given")),
        token => Ok(Way::Token(token.to_owned())),
    }
}

/// A line of stdin without its end.
pub fn stdin_line() -> Result<String> {
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line);
    read.map_err(|error| Failure::error(format!("standard input: {error}")))?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
