//! `fota product …`

use fota_proto::manager::{ProductSecureBoot, ProductSigning};

use crate::{args::ProductCommand, context::Context, failure::Result, output::Mark, text};

pub async fn run(context: &Context, command: ProductCommand) -> Result {
    let client = context.client()?;
    match command {
        ProductCommand::Signing {
            name,
            allow_unsigned,
            require,
        } => {
            let rule = match allow_unsigned || require {
                true => client.set_product_signing(&name, allow_unsigned).await?,
                false => client.product_signing(&name).await?,
            };
            show_signing(context, &rule);
        }
        ProductCommand::SecureBoot { name, digest, off } => {
            let policy = match off || !digest.is_empty() {
                true => client.set_secure_boot(&name, digest).await?,
                false => client.secure_boot(&name).await?,
            };
            show_secure_boot(context, &policy);
        }
    }
    Ok(())
}

fn show_signing(context: &Context, rule: &ProductSigning) {
    let name = text::plain(&rule.name);
    let (mark, line) = match rule.unsigned {
        true => (
            Mark::Attention,
            format!("{name}: unsigned images are taken"),
        ),
        false => (
            Mark::Good,
            format!("{name}: signed releases only, once the server has a root"),
        ),
    };
    context.out.verdict(mark, &line);
    context.out.document("fota.product_signing/1", rule);
}

fn show_secure_boot(context: &Context, policy: &ProductSecureBoot) {
    let keys: Vec<String> = policy.digests.iter().map(ToString::to_string).collect();
    let product = text::plain(&policy.product);
    let line = match keys.as_slice() {
        [] => format!("{product}: images need no secure boot signature"),
        [key] => format!("{product}: images must be signed by {key}"),
        keys => format!(
            "{product}: images must be signed by one of {}",
            keys.join(" ")
        ),
    };
    context.out.verdict(Mark::Good, &line);
    context.out.document("fota.product/1", policy);
}
