//! Every command in the README is run by the checks.
//!
//! A shell block carries a mark behind its language: `server` (started in the background by the
//! tour), `tour` (run line by line by the tour), `check` (what `.ci/run` calls) or `by-hand` (runs
//! too long for every change). The tour reads the README itself, so the two cannot drift apart.

use crate::files::Tree;
use crate::finding::Finding;

const README: &str = "README.md";
const MARKS: [&str; 4] = ["server", "tour", "check", "by-hand"];

/// One fenced block: the line it starts on, its mark and its commands.
struct Block<'a> {
    line: usize,
    mark: &'a str,
    commands: Vec<&'a str>,
}

pub(crate) fn commands(tree: &Tree) -> Vec<Finding> {
    let Some(readme) = tree.text(README) else {
        return vec![Finding::new(README, 0, "missing")];
    };
    let ci = tree.text(".ci/run").unwrap_or_default();
    let check = tree.text("check.sh").unwrap_or_default();
    let blocks = shell_blocks(readme);
    let mut findings = Vec::new();
    for block in &blocks {
        if !MARKS.contains(&block.mark) {
            let what = format!(
                "a shell block with the mark `{}`, not {MARKS:?}",
                block.mark
            );
            findings.push(Finding::new(README, block.line, what));
        }
        if block.mark == "check" {
            findings.extend(not_called(block, ci));
        }
    }
    for mark in ["server", "tour", "check"] {
        if !blocks.iter().any(|block| block.mark == mark) {
            findings.push(Finding::new(
                README,
                0,
                format!("no shell block marked `{mark}`"),
            ));
        }
    }
    if !has_line(check, "tools/tour.sh") {
        findings.push(Finding::new("check.sh", 0, "does not run tools/tour.sh"));
    }
    findings
}

fn not_called(block: &Block<'_>, script: &str) -> Vec<Finding> {
    let missing = block
        .commands
        .iter()
        .filter(|command| !has_line(script, command));
    missing
        .map(|command| Finding::new(README, block.line, format!(".ci/run lacks `{command}`")))
        .collect()
}

/// Whether a line of the script is the command, perhaps with arguments; comments do not count.
fn has_line(script: &str, command: &str) -> bool {
    let is_call = |line: &str| {
        let call = line.trim().strip_prefix("run ").unwrap_or(line.trim());
        call.strip_prefix(command)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
    };
    script.lines().any(is_call)
}

fn shell_blocks(text: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut open: Option<Block<'_>> = None;
    for (index, line) in text.lines().enumerate() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(info), None) => {
                let (language, mark) = info.split_once(' ').unwrap_or((info, ""));
                open = Some(Block {
                    line: index + 1,
                    mark,
                    commands: Vec::new(),
                });
                if language != "sh" {
                    open = Some(Block {
                        line: 0,
                        mark: "",
                        commands: Vec::new(),
                    });
                }
            }
            (None, Some(block)) => block.commands.push(line),
            (None, None) => {}
        }
    }
    blocks.retain(|block| block.line > 0);
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "```sh server\na\n```\n```sh tour\nb\n```\n```sh check\n./check.sh\n```\n";

    fn judge(readme: &str, ci: &str, check: &str) -> usize {
        commands(&Tree::of(&[
            (README, readme),
            (".ci/run", ci),
            ("check.sh", check),
        ]))
        .len()
    }

    #[test]
    fn a_readme_whose_commands_all_run_is_accepted() {
        let text = format!("{GOOD}```text\nnot a command\n```\n");
        assert_eq!(judge(&text, "./check.sh\n", "run tools/tour.sh\n"), 0);
    }

    #[test]
    fn a_command_that_no_script_runs_is_found() {
        let unmarked = format!("{GOOD}```sh\nnew\n```\n");
        assert_eq!(judge(&unmarked, "./check.sh\n", "tools/tour.sh\n"), 1);
        assert_eq!(judge(GOOD, "# ./check.sh\n", "tools/tour.sh\n"), 1);
        assert_eq!(judge(GOOD, "./check.sh\n", "# tools/tour.sh\n"), 1);
        assert_eq!(judge("", "./check.sh\n", "tools/tour.sh\n"), 3);
    }
}
