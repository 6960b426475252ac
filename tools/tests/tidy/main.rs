//! Repository checks: what the compiler and clippy cannot see, kept by a test.
//!
//! Each rule is a pure function from file texts to findings, so that every rule also has a test
//! that shows it failing on a bad sample: a check that cannot fail proves nothing.

#![forbid(unsafe_code)]

mod files;
mod finding;
mod layering;
mod names;
mod readme;
mod shape;
mod source;
mod text;

use files::Tree;
use finding::{Finding, assert_clean};
use source::Source;

fn each_rust_file(rule: impl Fn(&Source) -> Vec<Finding>) -> Vec<Finding> {
    Tree::read().rust_sources().iter().flat_map(rule).collect()
}

fn each_text(rule: impl Fn(&str, &str) -> Vec<Finding>) -> Vec<Finding> {
    let tree = Tree::read();
    tree.texts()
        .flat_map(|(path, text)| rule(path, text))
        .collect()
}

#[test]
fn lines_fit_in_the_width() {
    assert_clean(&each_rust_file(shape::line_width));
}

#[test]
fn files_stay_short() {
    assert_clean(&each_rust_file(shape::file_length));
}

#[test]
fn functions_stay_short() {
    assert_clean(&each_rust_file(shape::function_length));
}

#[test]
fn files_say_what_they_are_for() {
    assert_clean(&each_rust_file(shape::header));
}

#[test]
fn file_names_say_something() {
    assert_clean(&names::file_names(Tree::read().paths()));
}

#[test]
fn the_top_level_is_as_documented() {
    assert_clean(&names::top_level(Tree::read().paths()));
}

#[test]
fn tasks_are_made_only_by_the_runtime() {
    assert_clean(&each_rust_file(names::executor_outside_runtime));
}

#[test]
fn unsafe_stays_in_the_runtime() {
    assert_clean(&each_rust_file(names::unsafe_outside_runtime));
}

#[test]
fn crates_without_unsafe_forbid_it() {
    assert_clean(&names::forbid_unsafe(&Tree::read()));
}

#[test]
fn nothing_unwraps_outside_tests() {
    assert_clean(&each_rust_file(names::unwraps));
}

#[test]
fn tests_do_not_sleep_and_are_not_ignored() {
    assert_clean(&each_rust_file(names::sleeps_and_ignores));
}

#[test]
fn no_marks_of_unfinished_work() {
    assert_clean(&each_text(text::unfinished_marks));
}

#[test]
fn no_paths_of_a_machine() {
    assert_clean(&each_text(text::machine_paths));
}

#[test]
fn text_files_are_plain() {
    assert_clean(&each_text(text::white_space));
}

#[test]
fn links_in_documents_lead_somewhere() {
    assert_clean(&text::broken_links(&Tree::read()));
}

#[test]
fn readme_commands_are_run_by_ci() {
    assert_clean(&readme::commands(&Tree::read()));
}

#[test]
fn imports_run_one_way() {
    assert_clean(&layering::violations(&layering::cargo_tree));
}
