//! Reads scripts from files: blocks of input, `---`, output, with an empty line between blocks and `#` before a
//! comment. What a line means is told where scripts are played.

use std::path::Path;

use super::Step;

/// One script.
pub(crate) struct Block {
    /// Where it stands.
    pub(crate) file: String,
    /// The server it is for.
    pub(crate) house: String,
    pub(crate) input: Vec<String>,
    pub(crate) output: Vec<String>,
}

/// All scripts in a folder of the tests.
pub(crate) fn blocks(folder: &str) -> Vec<Block> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder);
    let mut blocks = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        for block in text.split("\n\n") {
            let mut lines: Vec<String> =
                block.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
            if lines.is_empty() {
                continue;
            }
            let house = lines[0].strip_prefix("! ").unwrap_or("open").to_owned();
            lines.retain(|line| !line.starts_with("! "));
            let divider = lines.iter().position(|line| line == "---").expect("a block is input, ---, output");
            let output = lines.split_off(divider + 1);
            lines.pop();
            blocks.push(Block { file: path.display().to_string(), house, input: lines, output });
        }
    }
    blocks
}

/// The bytes of script lines: CR LF at each end, `\n \r \t \0 \\` are escapes, a lone `\` at the end takes the line
/// end away.
pub(crate) fn unescape(lines: &[String]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in lines {
        let mut chars = line.chars();
        let mut ended = true;
        while let Some(char) = chars.next() {
            if char != '\\' {
                bytes.extend(char.to_string().bytes());
                continue;
            }
            match chars.next() {
                Some('n') => bytes.push(b'\n'),
                Some('r') => bytes.push(b'\r'),
                Some('t') => bytes.push(b'\t'),
                Some('0') => bytes.push(0),
                Some(other) => bytes.push(other as u8),
                None => ended = false,
            }
        }
        if ended {
            bytes.extend(b"\r\n");
        }
    }
    bytes
}

/// The turns of a conversation: `A> line`; a line of another client or `..` ends a turn.
pub(crate) fn steps(lines: &[String]) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut turn: Option<(usize, Vec<String>)> = None;
    for line in lines {
        let spoken = line.split_once("> ").or_else(|| line.strip_suffix('>').map(|name| (name, "")));
        let client = spoken.map(|(name, _)| usize::from(name.as_bytes()[0] - b'A'));
        if turn.as_ref().map(|(speaker, _)| *speaker) != client {
            steps.extend(turn.take().map(|(speaker, said)| Step::say(speaker, unescape(&said))));
        }
        match (client, spoken) {
            (Some(client), Some((_, words))) => {
                turn.get_or_insert_with(|| (client, Vec::new())).1.push(words.to_owned());
            }
            _ => assert_eq!(line, "..", "neither a turn nor the end of one"),
        }
    }
    steps.extend(turn.map(|(speaker, said)| Step::say(speaker, unescape(&said))));
    steps
}
