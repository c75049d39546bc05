//! The input and the output of `pack` and `unpack`: files, or stdin and stdout.

use std::{
    fs::File,
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use super::{
    failure::Failure,
    input::Input,
    output::Out,
    output_file::{OutputFile, is_same_file},
};

/// The permissions of a new file with a message that is not encrypted: its owner may read it.
pub const PLAINTEXT_MODE: u32 = 0o600;
/// The permissions of a new file with a packed message, as far as the umask allows.
pub const PACKED_MODE: u32 = 0o666;

/// Where the message is read from, and where the result is written to.
#[derive(clap::Args)]
pub struct MessageFiles {
    /// The file to read; stdin if not given, or if it is -
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Writes the result to this file instead of stdout. A file that exists keeps its content if the command fails
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl MessageFiles {
    /// Opens the files. Must be called before the process enters its sandbox. A file that is made gets the permissions
    /// `mode`.
    pub fn open(&self, mode: u32, out: &Out) -> Result<(Input, Out), Failure> {
        let named = |path: &Option<PathBuf>| path.clone().filter(|path| path != Path::new("-"));
        let input = Input::open(named(&self.file).as_deref())?;
        let output = named(&self.output).map(|path| OutputFile::open(&path, mode)).transpose()?;
        let (stdin, stdout) = (duplicate(io::stdin()), duplicate(io::stdout()));
        let read = input.file().or(stdin.as_ref()).filter(|file| file.metadata().is_ok_and(|it| it.is_file()));
        let is_written = |read: &File| match &output {
            Some(output) => output.is_same(read),
            None => stdout.as_ref().is_some_and(|stdout| is_same_file(stdout, read)),
        };
        // With --lines the rest of the input would be lost, or each result would be read again.
        if read.is_some_and(is_written) {
            let message = "the result would be written to the file that is read";
            return Err(Failure::usage("bad-arguments", message).hint("name another file with -o"));
        }
        Ok((input, Out { json: out.json, file: output }))
    }
}

fn duplicate(stream: impl AsFd) -> Option<File> {
    stream.as_fd().try_clone_to_owned().map(File::from).ok()
}
