//! `fota product …`

use crate::{args::ProductCommand, context::Context, failure::Result, output::Mark, text};

pub async fn run(context: &Context, command: ProductCommand) -> Result {
    let ProductCommand::Signing {
        name,
        allow_unsigned,
        require,
    } = command;
    let client = context.client()?;
    let rule = match allow_unsigned || require {
        true => client.set_product_signing(&name, allow_unsigned).await?,
        false => client.product_signing(&name).await?,
    };
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
    context.out.document("fota.product_signing/1", &rule);
    Ok(())
}
