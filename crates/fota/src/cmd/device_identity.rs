//! `fota device provision|claim|credentials|revoke|re-enrol|enrolment-key`

use std::{fs, path::Path, time::Duration};

use fota_proto::{
    manager::{
        CredentialKind, CredentialRequest, DeviceCredential, EnrolmentKey, EnrolmentKeyRequest,
    },
    signed::Alg,
};
use serde_json::json;

use crate::{
    args::{EnrolmentKeyCommand, ProvisionArgs, RevokeArgs},
    clock::now_ms,
    context::Context,
    failure::{Failure, Result},
    keys::Public,
    output::Mark,
    text,
};

pub async fn provision(context: &Context, args: &ProvisionArgs) -> Result {
    let request = match &args.credential.key {
        Some(path) => CredentialRequest {
            kind: CredentialKind::Key,
            public_key: Some(public_key(path)?),
        },
        None => CredentialRequest {
            kind: CredentialKind::Secret,
            public_key: None,
        },
    };
    let new = context.client()?.provision(&args.device, &request).await?;
    let line = format!(
        "{} may seal its check-ins with {}",
        args.device,
        name(&new.credential)
    );
    context.out.verdict(Mark::Good, &line);
    if let Some(secret) = &new.secret {
        context
            .out
            .answer(&text::facts(&[("secret", secret.clone())]));
        context
            .out
            .say("this is the only time that the secret is shown: put it into the device now");
    }
    context.out.document("fota.credential/1", &new);
    Ok(())
}

/// The public key of a PEM file, as hex digits.
fn public_key(path: &Path) -> Result<String> {
    let wrong = |what: &str| {
        Failure::usage(format!("{}: {what}", path.display())).hint(
            "give the public half of a P-256 key, as `openssl ec -in KEY.pem -pubout` prints it",
        )
    };
    let file = fs::read(path).map_err(|error| wrong(&error.to_string()))?;
    let public = Public::read(&file).map_err(|error| wrong(&error.to_string()))?;
    match public.key().alg() {
        Alg::Esp256 => Ok(public.to_hex()),
        other => Err(wrong(&format!("a key of {other:?}, not of P-256"))),
    }
}

pub async fn claim(context: &Context, path: &Path) -> Result {
    let list = fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    let accepted = context.client()?.claim(list).await?;
    let line = format!(
        "{} claimed, {} known already",
        text::count(accepted.claimed, "device"),
        accepted.unchanged
    );
    context.out.verdict(Mark::Good, &line);
    context.out.document("fota.claims/1", &accepted);
    Ok(())
}

pub async fn credentials(context: &Context, device: &str) -> Result {
    let credentials = context.client()?.credentials(device).await?;
    let now = now_ms();
    let rows: Vec<Vec<String>> = credentials
        .iter()
        .map(|credential| {
            let used = credential.last_used;
            vec![
                credential.id.to_string(),
                name(credential),
                word(&credential.state),
                word(&credential.source),
                text::time(credential.created_at),
                used.map_or_else(|| "-".to_owned(), |used| text::age(used, now)),
            ]
        })
        .collect();
    let heading = ["NUMBER", "CREDENTIAL", "STATE", "SOURCE", "SINCE", "USED"];
    context.out.answer(&text::table(&heading, &rows));
    context.out.document("fota.credentials/1", &credentials);
    if credentials.is_empty() {
        context
            .out
            .say("the device proves itself with nothing; `fota device provision` changes that");
    }
    Ok(())
}

pub async fn revoke(context: &Context, args: &RevokeArgs) -> Result {
    let device = &args.device;
    let what = match args.credential {
        Some(number) => format!("credential {number} of {device}"),
        None => format!("all credentials of {device}"),
    };
    let question = format!("Revoke {what} for good?");
    if !context.confirm(&question, "--yes").await? {
        return Err(Failure::error("nothing was changed"));
    }
    let client = context.client()?;
    client.revoke_credentials(device, args.credential).await?;
    context.out.verdict(Mark::Good, &format!("{what} revoked"));
    context.out.say(&format!(
        "to let it come back: fota device re-enrol {device}, or provision"
    ));
    let document = json!({"device": device, "credential": args.credential});
    context.out.document("fota.revoked/1", &document);
    Ok(())
}

pub async fn re_enrol(context: &Context, device: &str) -> Result {
    let leave = context.client()?.allow_re_enrolment(device).await?;
    let until = text::time(leave.expires_at);
    let line = format!("{device} may enrol another key until {until} UTC, once");
    context.out.verdict(Mark::Good, &line);
    context.out.document("fota.re_enrolment/1", &leave);
    Ok(())
}

pub async fn enrolment_key(context: &Context, command: EnrolmentKeyCommand) -> Result {
    let client = context.client()?;
    match command {
        EnrolmentKeyCommand::Create {
            name,
            max,
            expires,
            group,
            id_prefix,
        } => {
            let request = EnrolmentKeyRequest {
                name,
                devices_max: max,
                expires_in_s: seconds(expires),
                group,
                id_prefix,
            };
            create(context, &request).await?;
        }
        EnrolmentKeyCommand::List => list(context, &client.enrolment_keys().await?),
        EnrolmentKeyCommand::Revoke { name } => {
            client.revoke_enrolment_key(&name).await?;
            let line = format!("enrolment key {name} revoked; its devices stay");
            context.out.verdict(Mark::Good, &line);
            context
                .out
                .document("fota.revoked/1", &json!({"enrolment_key": name}));
        }
    }
    Ok(())
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

async fn create(context: &Context, request: &EnrolmentKeyRequest) -> Result {
    let new = context.client()?.create_enrolment_key(request).await?;
    let key = &new.enrolment_key;
    let devices = text::count(key.devices_max.into(), "device");
    let until = text::time(key.expires_at);
    let line = format!("enrolment key {} for {devices} until {until} UTC", key.name);
    context.out.verdict(Mark::Good, &line);
    context
        .out
        .answer(&text::facts(&[("secret", new.secret.clone())]));
    context
        .out
        .say("this is the only time that the secret is shown: put it into the firmware now");
    context.out.document("fota.enrolment_key/1", &new);
    Ok(())
}

fn list(context: &Context, keys: &[EnrolmentKey]) {
    let rows: Vec<Vec<String>> = keys
        .iter()
        .map(|key| {
            vec![
                key.name.clone(),
                word(&key.state),
                format!("{} of {}", key.devices, key.devices_max),
                text::time(key.expires_at),
                key.id_prefix.clone().unwrap_or_else(|| "-".to_owned()),
                key.group.clone().unwrap_or_else(|| "-".to_owned()),
            ]
        })
        .collect();
    let heading = ["NAME", "STATE", "DEVICES", "UNTIL", "IDS", "GROUP"];
    context.out.answer(&text::table(&heading, &rows));
    context.out.document("fota.enrolment_keys/1", &keys);
}

fn name(credential: &DeviceCredential) -> String {
    match &credential.key_id {
        Some(id) => format!("key {id}"),
        None => "a secret".to_owned(),
    }
}

fn word(value: &impl std::fmt::Debug) -> String {
    format!("{value:?}").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Secret;

    #[test]
    fn a_public_key_is_read_from_what_openssl_prints() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pub.pem");
        let read = |text: &str| {
            fs::write(&path, text).expect("written");
            public_key(&path)
        };
        let secret = Secret::new(Alg::Esp256, [0x2a; 32]).expect("a key");
        let pem = secret.public().to_pem();
        assert_eq!(read(&pem).expect("read"), secret.public().to_hex());
        let other = Secret::new(Alg::Ed25519, [0x2a; 32]).expect("a key");
        let private = secret.to_pem();
        for bad in [
            "",
            "PRIVATE",
            private.as_str(),
            &other.public().to_pem(),
            &pem.replace('=', "!"),
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
