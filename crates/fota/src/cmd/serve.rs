//! `fota serve`

use crate::{
    args::{Global, ServeArgs},
    failure::{Failure, Result},
};

pub async fn run(_global: &Global, _args: ServeArgs) -> Result {
    Err(Failure::error("the server is not there yet"))
}
