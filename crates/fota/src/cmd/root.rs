//! `fota key root …`: which keys count, and for what. Only `publish`, and `--online @server`, ask
//! a server.
//!
//! A root needs the signatures of several people, who sign one file one after another: each
//! command says how many are missing, and whose could be added.

use std::path::{Path, PathBuf};

use fota_proto::signed::{Envelope, KeyId, RoleName, Root};
use serde_json::{Value, json};

use crate::{
    args::{KeyFolder, NextFile, RootChange, RootCommand, SignerArgs},
    context::Context,
    failure::{Failure, Result},
    keys::{self, Keys, Passphrases, Private, Public, alg_name},
    output::{Mark, Output},
    signing::{
        self, invalid,
        root::{Draft, Need, fewest_missing, needs},
    },
    text,
};

/// What an online key is called that the server is asked for.
const SERVER: &str = "@server";
const ROLES: [RoleName; 3] = [RoleName::Root, RoleName::Release, RoleName::Online];

/// A root as it lies in a file.
pub struct RootFile {
    pub path: PathBuf,
    pub bytes: Vec<u8>,
}

impl RootFile {
    fn read(path: &Path) -> Result<Self> {
        Ok(Self {
            bytes: keys::read(path)?,
            path: path.to_owned(),
        })
    }
}

pub async fn run(context: &Context, command: RootCommand) -> Result {
    match command {
        RootCommand::Show { file, folder } => show(&context.out, file, &folder),
        RootCommand::Sign {
            file,
            signers,
            folder,
        } => sign(&context.out, &file, &signers, &folder).await,
        RootCommand::Next {
            change,
            next: file,
            folder,
        } => next(context, &change, &file, &folder).await,
        RootCommand::Verify { files, folder } => verify(&context.out, &files, &folder),
        RootCommand::Publish { file } => publish(context, &file).await,
        init @ RootCommand::Init { .. } => first(context, init).await,
    }
}

async fn first(context: &Context, command: RootCommand) -> Result {
    let RootCommand::Init {
        root,
        root_threshold,
        release,
        release_threshold,
        online,
        product,
        expires,
        output,
        no_sign,
        folder,
    } = command
    else {
        unreachable!("run() has taken the others");
    };
    let keys = Keys::open(folder.keys.as_deref())?;
    let mut roles = [Vec::new(), Vec::new(), Vec::new()];
    for (role, names) in roles.iter_mut().zip([&root, &release, &online]) {
        for name in names {
            role.push(public(context, &keys, name).await?);
        }
    }
    let mut draft = Draft::first(roles, [root_threshold, release_threshold]);
    draft.expires = expires;
    draft.product = product;
    let output = output.unwrap_or_else(|| keys.dir().join("root-1.cose"));
    refuse_existing(&output)?;
    finish(&context.out, &keys, &folder, &draft, None, output, no_sign).await
}

async fn next(
    context: &Context,
    change: &RootChange,
    file: &NextFile,
    folder: &KeyFolder,
) -> Result {
    let keys = Keys::open(folder.keys.as_deref())?;
    let from = from(&keys, file)?;
    let mut draft = Draft::after(&trusted(&from.bytes)?)?;
    let added = [&change.add_root, &change.add_release, &change.add_online];
    let removed = [
        &change.remove_root,
        &change.remove_release,
        &change.remove_online,
    ];
    for (role, (added, removed)) in ROLES.into_iter().zip(added.into_iter().zip(removed)) {
        for name in removed {
            draft.remove(role, &public(context, &keys, name).await?)?;
        }
        for name in added {
            draft.add(role, public(context, &keys, name).await?)?;
        }
    }
    draft.set_threshold(RoleName::Root, change.root_threshold);
    draft.set_threshold(RoleName::Release, change.release_threshold);
    draft.expires = change.expires.or(draft.expires);
    let output = output(&from.path, file, draft.version());
    refuse_existing(&output)?;
    let out = &context.out;
    finish(
        out,
        &keys,
        folder,
        &draft,
        Some(&from),
        output,
        file.no_sign,
    )
    .await
}

/// A key by name, file or hex digits, or that of the server.
async fn public(context: &Context, keys: &Keys, name: &str) -> Result<Public> {
    if name != SERVER {
        return keys.public(name);
    }
    let said = context.client()?.signing().await?.online_key;
    let server = context.client()?.base();
    let online = said.as_deref().and_then(Public::from_hex);
    online.ok_or_else(|| {
        Failure::refused("no_online_key", format!("{server} names no online key"))
            .hint("a server of this version has one; or name a file with --online FILE")
    })
}

/// The root that a next one follows.
pub fn from(keys: &Keys, file: &NextFile) -> Result<RootFile> {
    let path = file.from.clone().or_else(|| keys.newest_root());
    let path = path.ok_or_else(|| {
        let dir = keys.dir().display();
        Failure::not_found(format!("there is no root in {dir}"))
            .hint("name it with --from FILE; `fota key root init` makes the first")
    })?;
    RootFile::read(&path)
}

/// A root that carries the signatures of its own keys.
pub fn trusted(bytes: &[u8]) -> Result<Root<'_>> {
    Root::first(bytes).map_err(invalid)
}

/// Where the next root goes.
pub fn output(from: &Path, file: &NextFile, version: u32) -> PathBuf {
    let beside = || from.with_file_name(format!("root-{version}.cose"));
    file.output.clone().unwrap_or_else(beside)
}

/// A root is never written over: its signatures may be of people who are far away.
pub fn refuse_existing(path: &Path) -> Result {
    if !path.exists() {
        return Ok(());
    }
    let path = path.display();
    Err(
        Failure::refused("exists", format!("{path} exists")).hint(format!(
            "name another -o FILE; `fota key root show {path}` says what is in it"
        )),
    )
}

/// Writes a root, signed with those of its keys that are here.
pub async fn finish(
    out: &Output,
    keys: &Keys,
    folder: &KeyFolder,
    draft: &Draft,
    from: Option<&RootFile>,
    output: PathBuf,
    no_sign: bool,
) -> Result {
    let mut object = draft.unsigned()?;
    let before = from.map(|from| trusted(&from.bytes)).transpose()?;
    if !no_sign {
        let passphrases = Passphrases::new(out, folder.passphrase_file.as_deref());
        for name in local_keys(keys, &object, before.as_ref())? {
            let signer = signing::unlock(keys, &passphrases, &name).await?;
            object = signing::add_signatures(&object, &[signer])?;
        }
    }
    write(&output, &object)?;
    tell(out, keys, &output, &object, before.as_ref())
}

/// The private keys here that this root, or the one before it, wants to see.
fn local_keys(keys: &Keys, object: &[u8], before: Option<&Root<'_>>) -> Result<Vec<String>> {
    let envelope = Envelope::parse(object).map_err(invalid)?;
    let root = Root::parse(envelope.payload).map_err(invalid)?;
    let needs = needs(&root, before, &envelope);
    let wanted = |id: KeyId| needs.iter().any(|need| need.open.contains(&id));
    let entries = keys.list()?.into_iter();
    let here = entries.filter(|entry| entry.private != Private::Elsewhere);
    Ok(here
        .filter(|entry| wanted(entry.public.id()))
        .map(|entry| entry.name)
        .collect())
}

fn write(path: &Path, object: &[u8]) -> Result {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| keys::io(folder, &error))?;
    }
    let beside = path.with_extension("part");
    let written = std::fs::write(&beside, object).and_then(|()| std::fs::rename(&beside, path));
    written.map_err(|error| keys::io(path, &error))
}

fn show(out: &Output, file: Option<PathBuf>, folder: &KeyFolder) -> Result {
    let keys = Keys::open(folder.keys.as_deref())?;
    let from = from(
        &keys,
        &NextFile {
            from: file,
            ..NextFile::default()
        },
    )?;
    let before = before(&from)?;
    let before = before
        .as_ref()
        .map(|file| trusted(&file.bytes))
        .transpose()?;
    let envelope = Envelope::parse(&from.bytes).map_err(invalid)?;
    let root = Root::parse(envelope.payload).map_err(invalid)?;
    let mut facts = vec![
        ("root", root.version.to_string()),
        (
            "product",
            root.product.map_or_else(|| "all".to_owned(), text::plain),
        ),
        (
            "expires",
            root.expires.map_or_else(|| "never".to_owned(), text::day),
        ),
    ];
    for role in ROLES {
        let threshold = root.role(role).threshold;
        let each = root.keys_of(role).map(|key| {
            let name = keys.name_of(key.id());
            format!("{} {name}", alg_name(key.alg()))
        });
        let each: Vec<String> = each.collect();
        let word = match role {
            RoleName::Root => "root keys",
            RoleName::Release => "release keys",
            RoleName::Online => "online keys",
        };
        facts.push((
            word,
            format!("{threshold} of {}: {}", each.len(), each.join(", ")),
        ));
    }
    out.answer(&text::facts(&facts));
    tell(out, &keys, &from.path, &from.bytes, before.as_ref())
}

/// The root before the one in this file, where it lies beside it.
fn before(file: &RootFile) -> Result<Option<RootFile>> {
    let envelope = Envelope::parse(&file.bytes).map_err(invalid)?;
    let root = Root::parse(envelope.payload).map_err(invalid)?;
    let name = format!("root-{}.cose", root.version - 1);
    let path = file.path.with_file_name(name);
    match root.version > 1 && path.is_file() {
        true => RootFile::read(&path).map(Some),
        false => Ok(None),
    }
}

async fn sign(out: &Output, path: &Path, signers: &SignerArgs, folder: &KeyFolder) -> Result {
    let keys = Keys::open(folder.keys.as_deref())?;
    let file = RootFile::read(path)?;
    let before = before(&file)?;
    let before = before
        .as_ref()
        .map(|file| trusted(&file.bytes))
        .transpose()?;
    let mut signers = signers.clone();
    if signers.key.is_empty() && signers.signer_command.is_none() && !signers.has_token() {
        signers.key = local_keys(&keys, &file.bytes, before.as_ref())?;
    }
    let passphrases = Passphrases::new(out, folder.passphrase_file.as_deref());
    let signers = signing::signers(&keys, &passphrases, &signers).await?;
    if signers.is_empty() {
        return Err(
            Failure::not_found("none of the keys that could sign is here")
                .hint("`fota key root show` names them; sign where they are"),
        );
    }
    let envelope = Envelope::parse(&file.bytes).map_err(invalid)?;
    let root = Root::parse(envelope.payload).map_err(invalid)?;
    let roots = || [Some(&root), before.as_ref()].into_iter().flatten();
    for signer in &signers {
        let public = signer.public();
        let counts = |root: &Root<'_>| root.keys_of(RoleName::Root).any(|key| *key == public);
        // Of the root before, which may not be here, only its own maker knows.
        if !roots().any(counts) && (root.version == 1 || before.is_some()) {
            let message = format!(
                "key {} is no root key of this root",
                keys.name_of(public.id())
            );
            return Err(Failure::refused("wrong_key", message));
        }
    }
    let signed = signing::add_signatures(&file.bytes, &signers)?;
    write(path, &signed)?;
    tell(out, &keys, path, &signed, before.as_ref())
}

/// Says who has signed a root and how many signatures are missing.
fn tell(
    out: &Output,
    keys: &Keys,
    path: &Path,
    object: &[u8],
    before: Option<&Root<'_>>,
) -> Result {
    let envelope = Envelope::parse(object).map_err(invalid)?;
    let root = Root::parse(envelope.payload).map_err(invalid)?;
    let needs = needs(&root, before, &envelope);
    let shown = path.display();
    let missing = fewest_missing(&needs);
    match missing {
        0 => out.verdict(
            Mark::Good,
            &format!("root {}: {shown}, fully signed", root.version),
        ),
        _ => out.verdict(
            Mark::Attention,
            &format!(
                "root {}: {shown}, {} missing",
                root.version,
                text::count(missing as u64, "signature")
            ),
        ),
    }
    for need in &needs {
        out.say(&sentence(keys, need));
    }
    if root.version > 1 && before.is_none() {
        let version = root.version - 1;
        out.say(&format!(
            "  root {version} is not beside it: how many of its keys have signed is not known here"
        ));
    }
    match missing {
        0 => out.say(&format!("next: fota key root publish {shown}")),
        _ => out.say(&format!(
            "next, where such a key is: fota key root sign {shown} --key NAME"
        )),
    }
    out.document("fota.root/1", &document(path, &root, &needs));
    Ok(())
}

fn sentence(keys: &Keys, need: &Need) -> String {
    let names = |ids: &[KeyId]| {
        let names: Vec<String> = ids.iter().map(|id| keys.name_of(*id)).collect();
        names.join(", ")
    };
    let (version, signed, threshold) = (need.version, need.signed.len(), need.threshold);
    let mut line = format!("  keys of root {version}: {signed} of {threshold} signatures");
    if !need.signed.is_empty() {
        line += &format!("; signed by {}", names(&need.signed));
    }
    if need.missing() > 0 {
        line += &format!("; could sign: {}", names(&need.open));
    }
    line
}

fn document(path: &Path, root: &Root<'_>, needs: &[Need]) -> Value {
    let role = |role| {
        let keys = root.keys_of(role).map(|key| {
            json!({
                "id": key.id().to_string(),
                "alg": alg_name(key.alg()),
                "public_key": keys::hex(key.bytes()),
            })
        });
        json!({"threshold": root.role(role).threshold, "keys": keys.collect::<Vec<_>>()})
    };
    let needs: Vec<Value> = needs
        .iter()
        .map(|need| {
            let ids = |ids: &[KeyId]| ids.iter().map(KeyId::to_string).collect::<Vec<_>>();
            json!({
                "root": need.version,
                "threshold": need.threshold,
                "signed": ids(&need.signed),
                "open": ids(&need.open),
                "missing": need.missing(),
            })
        })
        .collect();
    json!({
        "file": path.display().to_string(),
        "version": root.version,
        "product": root.product,
        "expires": root.expires,
        "root": role(RoleName::Root),
        "release": role(RoleName::Release),
        "online": role(RoleName::Online),
        "signatures": needs,
    })
}

fn verify(out: &Output, paths: &[PathBuf], folder: &KeyFolder) -> Result {
    let keys = Keys::open(folder.keys.as_deref())?;
    let files: Vec<RootFile> = paths
        .iter()
        .map(|path| RootFile::read(path))
        .collect::<Result<_>>()?;
    let mut last: Option<Root<'_>> = None;
    for file in &files {
        let root = match &last {
            None => Root::first(&file.bytes),
            Some(last) => last.succeed(&file.bytes),
        };
        let root = root.map_err(|error| {
            let message = format!("{}: {error}", file.path.display());
            Failure::refused("not_trusted", message)
        })?;
        let (path, version) = (file.path.display(), root.version);
        let line = match &last {
            None => format!("{path}: root {version}, signed by its own keys"),
            Some(last) => format!("{path}: root {version} follows root {}", last.version),
        };
        out.verdict(Mark::Good, &line);
        last = Some(root);
    }
    if let (Some(root), Some(file)) = (&last, files.last()) {
        let envelope = Envelope::parse(&file.bytes).map_err(invalid)?;
        let needs = needs(root, None, &envelope);
        out.document("fota.root/1", &document(&file.path, root, &needs));
        for role in ROLES {
            let names = root.keys_of(role).map(|key| keys.name_of(key.id()));
            let names: Vec<String> = names.collect();
            let threshold = root.role(role).threshold;
            let line = format!(
                "  {role}: {threshold} of {}: {}",
                names.len(),
                names.join(", ")
            );
            out.say(&line);
        }
    }
    Ok(())
}

/// Checks a root as the server will, then hands it over.
async fn publish(context: &Context, path: &Path) -> Result {
    let file = RootFile::read(path)?;
    let client = context.client()?;
    let current = client.current_root().await?;
    let (server, shown) = (client.base(), path.display());
    if current.as_deref() == Some(&file.bytes) {
        let line = format!("{server} has {shown} already");
        return published(context, trusted(&file.bytes)?.version, &line);
    }
    let refused = |error| {
        Failure::refused("not_trusted", format!("{shown}: {error}")).hint(format!(
            "`fota key root show {shown}` says which signatures are missing"
        ))
    };
    let root = match &current {
        None => Root::first(&file.bytes).map_err(refused)?,
        Some(current) => trusted(current)?.succeed(&file.bytes).map_err(refused)?,
    };
    client.add_root(file.bytes.clone().into()).await?;
    let line = format!("{server} trusts root {} now", root.version);
    published(context, root.version, &line)
}

fn published(context: &Context, version: u32, line: &str) -> Result {
    context.out.verdict(Mark::Good, line);
    let document = json!({"server": context.client()?.base(), "version": version});
    context.out.document("fota.root_published/1", &document);
    Ok(())
}
