//! Where a device is, and the two ends of the line to it.

use std::{convert::Infallible, fmt, io, path::PathBuf, str::FromStr};

use tokio::{
    fs::File,
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// Where a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Port {
    /// A serial port, or the end of a pseudo-terminal.
    Tty(PathBuf),
    /// A TCP address, of a terminal server or an emulator.
    Tcp(String),
    /// Standard input and output.
    Stdio,
}

/// A line that is open.
pub struct Line {
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
}

impl FromStr for Port {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match (text, text.strip_prefix("tcp:")) {
            ("-", _) => Self::Stdio,
            (_, Some(address)) => Self::Tcp(address.to_owned()),
            _ => Self::Tty(text.into()),
        })
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tty(path) => path.display().fmt(f),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
            Self::Stdio => f.write_str("-"),
        }
    }
}

impl Port {
    /// Opens it; a serial port is set to this speed, eight bits, no parity, no flow control.
    pub async fn open(&self, baud: u32) -> io::Result<Line> {
        match self {
            Self::Tty(path) => {
                let file = std::fs::File::options().read(true).write(true).open(path)?;
                set_up(&file, baud)?;
                Ok(Line {
                    reader: Box::new(File::from_std(file.try_clone()?)),
                    writer: Box::new(File::from_std(file)),
                })
            }
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                // A frame is one write, and the device waits for it.
                stream.set_nodelay(true)?;
                let (reader, writer) = stream.into_split();
                Ok(Line {
                    reader: Box::new(reader),
                    writer: Box::new(writer),
                })
            }
            Self::Stdio => stdio(),
        }
    }
}

/// Without the buffers of the standard library, which would hold a frame back.
#[cfg(unix)]
fn stdio() -> io::Result<Line> {
    use std::os::fd::AsFd;

    let input = io::stdin().as_fd().try_clone_to_owned()?;
    let output = io::stdout().as_fd().try_clone_to_owned()?;
    Ok(Line {
        reader: Box::new(File::from_std(input.into())),
        writer: Box::new(File::from_std(output.into())),
    })
}

#[cfg(unix)]
fn set_up(file: &std::fs::File, baud: u32) -> io::Result<()> {
    use rustix::termios::{ControlModes, OptionalActions, SpecialCodeIndex, tcgetattr, tcsetattr};

    let mut mode = tcgetattr(file)?;
    mode.make_raw();
    mode.set_speed(baud)?;
    mode.control_modes |= ControlModes::CLOCAL | ControlModes::CREAD;
    // Closing must not lower DTR, which resets many boards.
    mode.control_modes &= !(ControlModes::HUPCL | ControlModes::CRTSCTS);
    mode.special_codes[SpecialCodeIndex::VMIN] = 1;
    mode.special_codes[SpecialCodeIndex::VTIME] = 0;
    tcsetattr(file, OptionalActions::Now, &mode)?;
    Ok(())
}

#[cfg(not(unix))]
fn stdio() -> io::Result<Line> {
    let why = "standard input and output carry a line on Unix only: use tcp:HOST:PORT";
    Err(io::Error::new(io::ErrorKind::Unsupported, why))
}

#[cfg(not(unix))]
fn set_up(_: &std::fs::File, _: u32) -> io::Result<()> {
    let why = "serial ports can be set up on Unix only: bridge it to TCP and use tcp:HOST:PORT";
    Err(io::Error::new(io::ErrorKind::Unsupported, why))
}
