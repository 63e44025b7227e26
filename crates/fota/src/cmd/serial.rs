//! `fota serial`: the host's end of a wire, between a device without a network and any server.
//!
//! What the device asks in the frames of `docs/serial.md` is asked of the server; what it prints in
//! between is shown. Nothing is decided here, and nothing is trusted: the device proves what it
//! installs.

mod console;
mod port;

use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use fota_client::{Blob, DeviceClient, Error};
use fota_proto::{
    Sha256,
    serial::{Ask, Deframer, Incoming, Request, SERIAL_DATA_BYTES_MAX, SERIAL_FRAME_BYTES_MAX},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{sleep, timeout},
};

use crate::{
    context::Context,
    failure::{Exit, Failure, Result},
    output::Mark,
};
use console::Console;
use port::{Line, Port};

/// A device that prints and does not ask sends no zero: its text is shown after so much silence.
const SILENCE: Duration = Duration::from_millis(300);
/// How long to wait before a port that went away is opened again.
const REOPEN_EVERY: Duration = Duration::from_secs(1);

/// Options of the command.
#[derive(Debug, Args)]
pub struct SerialArgs {
    /// Where the device is: a serial port, tcp:HOST:PORT, or - for stdin and stdout
    #[arg(long, value_name = "PORT")]
    port: Port,
    /// Speed of a serial port
    #[arg(long, value_name = "BAUD", default_value_t = 115_200)]
    baud: u32,
}

/// Answers until it is interrupted, or stdin ends. A port that goes away, as a USB device does at a
/// reset, is opened again.
pub async fn run(context: &Context, args: SerialArgs) -> Result {
    let ca = context.config.ca_pem()?;
    let server = &context.config.server.value;
    let client = DeviceClient::trusting(server, None, ca.as_deref())
        .map_err(|error| Failure::usage(error.to_string()).hint("check --server"))?;
    let mut bridge = Bridge {
        client,
        stream: None,
        last: None,
    };
    let mut line = args.port.open(args.baud).await.map_err(|error| {
        let message = format!("{}: {error}", args.port);
        Failure::new(Exit::Unreachable, "port", message).hint("check --port")
    })?;
    let text = format!("{} at the other end of {server}", args.port);
    context.out.note(Mark::Good, &text);
    loop {
        let ended = serve(context, &mut bridge, &mut line, &args.port).await;
        if matches!(args.port, Port::Stdio) {
            return Ok(());
        }
        let text = format!("{}: {ended}; waiting for it to come back", args.port);
        context.out.note(Mark::Attention, &text);
        line = loop {
            sleep(REOPEN_EVERY).await;
            if let Ok(line) = args.port.open(args.baud).await {
                break line;
            }
        };
    }
}

/// Answers what comes; gives the reason why nothing comes any more.
async fn serve(context: &Context, bridge: &mut Bridge, line: &mut Line, port: &Port) -> String {
    let mut deframer = Deframer::<SERIAL_FRAME_BYTES_MAX>::new();
    let mut console = Console::new(&context.out, matches!(port, Port::Stdio));
    let mut bytes = [0; 4096];
    loop {
        let length = match timeout(SILENCE, line.reader.read(&mut bytes)).await {
            Err(_) => {
                console.show(deframer.take_text());
                console.flush();
                continue;
            }
            Ok(Ok(0)) => return "it has ended".to_owned(),
            Ok(Ok(length)) => length,
            Ok(Err(error)) => return error.to_string(),
        };
        for byte in &bytes[..length] {
            match deframer.push(*byte) {
                Some(Incoming::Text(text)) => console.show(text),
                Some(Incoming::Message(message)) => {
                    let Some(request) = Request::parse(message) else {
                        continue;
                    };
                    if let Err(error) = answer(&console, bridge, line, &request).await {
                        return error.to_string();
                    }
                }
                None => {}
            }
        }
    }
}

async fn answer(
    console: &Console<'_>,
    bridge: &mut Bridge,
    line: &mut Line,
    request: &Request<'_>,
) -> std::io::Result<()> {
    let (status, body) = match bridge.ask(request).await {
        Ok(body) => (200, body),
        Err(error) => (status(&error), reason(&error).into()),
    };
    tell(console, &request.ask, status, &body);
    let mut frame = [0; SERIAL_FRAME_BYTES_MAX];
    let body = &body[..body.len().min(SERIAL_DATA_BYTES_MAX)];
    // The longest body fits: `serial` asserts it.
    let frame = request.reply(status, body).encode(&mut frame);
    line.writer.write_all(frame.unwrap_or_default()).await?;
    line.writer.flush().await
}

/// The status of HTTP, 0 where there was no answer, 502 where it was not that of a fota server.
fn status(error: &Error) -> u16 {
    match error {
        Error::Unreachable { .. } => 0,
        Error::Problem(problem) => problem.status,
        Error::Protocol { .. } => 502,
    }
}

/// Why not, for the device to print; cut where a character ends.
fn reason(error: &Error) -> Vec<u8> {
    let text = error.to_string();
    let short = text.char_indices().take_while(|(at, _)| *at < 200);
    short.map(|(_, c)| c).collect::<String>().into_bytes()
}

/// One line for each question; of a blob, for the first.
fn tell(console: &Console, ask: &Ask, status: u16, body: &[u8]) {
    let what = match ask {
        Ask::CheckIn(_) => "check-in".to_owned(),
        Ask::Enrol(_) => "enrolment".to_owned(),
        Ask::Root(version) => format!("root {version}"),
        Ask::Blob { blob, from, .. } if status != 200 || *from == 0 => {
            format!("blob {} from {from}", blob.short())
        }
        Ask::Blob { .. } => return,
        Ask::LogProof { size, .. } => format!("proof in the log of {size}"),
        Ask::LogGrowth { from, to } => format!("proof that the log grew from {from} to {to}"),
    };
    console.document(&json!({"asked": what, "status": status}));
    match status {
        200 => console.out.note(Mark::Good, &what),
        _ => {
            let why = String::from_utf8_lossy(body);
            let text = format!("{what}: status {status}: {why}");
            console.out.note(Mark::Bad, &text);
        }
    }
}

/// The connection to the server, and the blob that the device is in the middle of.
struct Bridge {
    client: DeviceClient,
    stream: Option<Stream>,
    /// The last bytes of a blob, for a device that did not hear them and asks again.
    last: Option<(Sha256, u32, Bytes)>,
}

struct Stream {
    name: Sha256,
    blob: Blob,
    /// What the server sent and the device has not had.
    rest: Bytes,
    /// Position of that in the blob.
    at: u64,
}

impl Bridge {
    async fn ask(&mut self, request: &Request<'_>) -> std::result::Result<Bytes, Error> {
        let client = &self.client;
        let body = match request.ask {
            Ask::CheckIn(message) => client.check_in(message).await?,
            Ask::Enrol(message) => client.enrol(message).await?,
            Ask::Root(version) => client.root(version).await?,
            Ask::Blob { blob, from, to } => return self.blob(blob, from, to).await,
            Ask::LogProof { release, size } => client.log_proof(&release, size).await?,
            Ask::LogGrowth { from, to } => client.log_growth(from, to).await?,
        };
        Ok(body.into())
    }

    /// The next bytes of the stream that the device reads, or the first of a new one. A device asks
    /// for a kilobyte at a time; a request to the server for each would cost a round trip for each.
    async fn blob(
        &mut self,
        name: Sha256,
        from: u32,
        to: u32,
    ) -> std::result::Result<Bytes, Error> {
        if let Some((last, at, bytes)) = &self.last
            && (*last, *at) == (name, from)
        {
            return Ok(bytes.clone());
        }
        let goes_on = |stream: &Stream| (stream.name, stream.at) == (name, u64::from(from));
        let mut stream = match self.stream.take().filter(goes_on) {
            Some(stream) => stream,
            None => Stream {
                name,
                blob: self.client.blob(&name, from.into()..to.into()).await?,
                rest: Bytes::new(),
                at: from.into(),
            },
        };
        let wanted = match to {
            0 => SERIAL_DATA_BYTES_MAX,
            _ => SERIAL_DATA_BYTES_MAX.min(to.saturating_sub(from) as usize),
        };
        let bytes = stream.take(wanted).await?;
        self.last = Some((name, from, bytes.clone()));
        self.stream = Some(stream);
        Ok(bytes)
    }
}

impl Stream {
    /// Exactly so many bytes, fewer only at the end of the blob.
    async fn take(&mut self, wanted: usize) -> std::result::Result<Bytes, Error> {
        let mut bytes = Vec::with_capacity(wanted);
        while bytes.len() < wanted {
            if self.rest.is_empty() {
                match self.blob.chunk().await? {
                    Some(chunk) => self.rest = chunk,
                    None => break,
                }
            }
            let some = self.rest.len().min(wanted - bytes.len());
            bytes.extend_from_slice(&self.rest.split_to(some));
        }
        self.at += bytes.len() as u64;
        Ok(bytes.into())
    }
}
