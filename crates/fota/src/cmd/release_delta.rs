//! `fota release delta …`: patches that the server makes by itself, looked at and asked for.

use fota_delta::{Options, Profile};
use fota_proto::{
    Sha256,
    manager::{Delta, DeltaProfile, DeltaRequest, Release},
};
use sha2::Digest;

use crate::{
    args::{self, DeltaBuildArgs, ReleaseDeltaCommand},
    cmd::delta,
    context::Context,
    failure::{Failure, Result},
    output::Mark,
    text::{self, Grouped},
};

/// How the command line says "from everything that a device runs".
const ALL_RUNNING: &str = "all-running";

pub async fn run(context: &Context, command: ReleaseDeltaCommand) -> Result {
    match command {
        ReleaseDeltaCommand::List { release } => list(context, release.as_deref()).await,
        ReleaseDeltaCommand::Build(args) => build(context, &args).await,
        ReleaseDeltaCommand::Explain {
            release,
            from,
            profile,
        } => explain(context, &release, &from, profile).await,
    }
}

async fn list(context: &Context, release: Option<&str>) -> Result {
    let release = match release {
        Some(name) => Some(context.release(name).await?),
        None => None,
    };
    let deltas = context.client()?.deltas(release.map(|it| it.id)).await?;
    show(context, &deltas);
    let spared: i64 = deltas.iter().map(|delta| delta.spared_bytes).sum();
    if spared != 0 {
        context.out.answer(&format!("{}\n", text::spared(spared)));
    }
    context.out.document("fota.release.deltas/1", &deltas);
    Ok(())
}

fn show(context: &Context, deltas: &[Delta]) {
    let rows: Vec<Vec<String>> = deltas.iter().map(row).collect();
    let heading = [
        "RELEASE", "FROM", "PROFILE", "STATE", "BYTES", "OF IMAGE", "MADE IN", "DEVICES", "SPARED",
        "NOTES",
    ];
    context.out.answer(&text::table(&heading, &rows));
}

fn row(delta: &Delta) -> Vec<String> {
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let from = delta.from_version.as_deref().map(text::plain);
    let share = |bytes: u64| format!("{:.1} %", bytes as f64 * 100.0 / delta.image_bytes as f64);
    vec![
        text::plain(&delta.version),
        from.unwrap_or_else(|| "nothing".to_owned()),
        profile_name(delta.profile).to_owned(),
        delta.state.clone(),
        or_dash(delta.bytes.map(|bytes| Grouped(bytes).to_string())),
        or_dash(delta.bytes.map(share)),
        or_dash(delta.made_in_ms.map(|ms| format!("{ms} ms"))),
        format!("{} of {}", delta.succeeded, delta.offered),
        text::signed_bytes(delta.spared_bytes),
        text::plain(delta.detail.as_deref().unwrap_or("")),
    ]
}

fn profile_name(profile: DeltaProfile) -> &'static str {
    match profile {
        DeltaProfile::Small => "small",
        DeltaProfile::Default => "default",
    }
}

async fn build(context: &Context, args: &DeltaBuildArgs) -> Result {
    let release = context.release(&args.release).await?;
    let mut request = DeltaRequest {
        release: by_number(&release),
        from: Vec::new(),
        all_running: false,
        profile: match args.profile {
            args::DeltaProfile::Small => DeltaProfile::Small,
            args::DeltaProfile::Default => DeltaProfile::Default,
        },
    };
    for from in &args.from {
        if from == ALL_RUNNING {
            request.all_running = true;
        } else {
            request.from.push(by_number(&context.release(from).await?));
        }
    }
    let built = context.client()?.build_deltas(&request).await?;
    show(context, &built);
    let version = &release.version;
    let line = match built.len() {
        0 => "no device runs another release of this product: nothing to make".to_owned(),
        1 => format!("1 patch to {version}: see `fota release delta list`"),
        more => format!("{more} patches to {version}: see `fota release delta list`"),
    };
    context.out.verdict(Mark::Good, &line);
    context.out.document("fota.release.deltas/1", &built);
    Ok(())
}

/// A version may be a plain number too, so a release is named by its own.
fn by_number(release: &Release) -> String {
    format!("id:{}", release.id)
}

/// Works on the two images here: the same images give the same patch on every machine, and the
/// server has better things to do.
async fn explain(
    context: &Context,
    release: &str,
    from: &str,
    profile: args::DeltaProfile,
) -> Result {
    let (new, old) = (
        context.release(release).await?,
        context.release(from).await?,
    );
    let deltas = context.client()?.deltas(Some(new.id)).await?;
    let (new_image, old_image) = (image(context, &new).await?, image(context, &old).await?);
    let options = Options {
        profile: match profile {
            args::DeltaProfile::Small => Profile::Small,
            args::DeltaProfile::Default => Profile::Default,
        },
    };
    let told = delta::Difference::of(&old_image, &new_image, &options)?;
    let here = Sha256(sha2::Sha256::digest(&told.patch).into());
    let known = deltas
        .iter()
        .find(|delta| delta.from == Some(old.id) && delta.sha256 == Some(here));
    let known = match known {
        Some(_) => "the very one that devices get",
        None => "the server has no such one: `fota release delta build` makes it",
    };
    let facts = [
        ("from", text::plain(&old.version)),
        ("to", text::plain(&new.version)),
        ("patch is", known.to_owned()),
    ];
    told.show(&context.out, &facts, "fota.release.delta.explanation/1");
    Ok(())
}

async fn image(context: &Context, release: &Release) -> Result<Vec<u8>> {
    let mut download = context.client()?.release_image(release.id).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = download.chunk().await? {
        bytes.extend_from_slice(&piece);
        if bytes.len() as u64 > release.bytes {
            break;
        }
    }
    match sha2::Sha256::digest(&bytes)[..] == release.sha256.0 {
        true => Ok(bytes),
        false => Err(
            Failure::error("the bytes that came are not those of the release")
                .hint("try again; if it happens again, the server's storage is damaged"),
        ),
    }
}
