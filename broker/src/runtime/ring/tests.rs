//! More completions than the ring holds all arrive, and what never completes is told at the end.

use std::io::Write;

use futures_util::FutureExt;

use super::*;
use crate::runtime::buffer::allocate;

/// As much as a ring takes at once, and a quarter of what these tests ask for.
const FEW: u32 = 8;

fn file_of_a_page() -> Rc<OwnedFd> {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(&[7; 4096]).expect("room for a page");
    Rc::new(file.into())
}

#[test]
fn completions_that_do_not_fit_are_handed_out_later() {
    let ring = Ring::sized(FEW / 2, FEW).expect("a ring");
    let file = file_of_a_page();
    // What the page cache has completes while it is submitted: nothing is reaped in between.
    let mut reads: Vec<_> = (0..=4 * FEW)
        .map(|_| Box::pin(ring.read(&file, allocate(4096), 4096, 0)))
        .collect();
    for read in &mut reads {
        assert!(
            read.as_mut().now_or_never().is_none(),
            "it was only submitted"
        );
    }
    ring.submit();
    ring.reap();
    for read in reads {
        let read = read.now_or_never().expect("it has completed");
        assert_eq!(read.expect("a page")[..], [7; 4096]);
    }
    assert!(ring.finish(Instant::now()));
}

#[test]
fn an_operation_that_never_ends_is_told_of_at_the_end() {
    let ring = Ring::new().expect("a ring");
    let (empty, _open) = std::io::pipe().expect("a pipe");
    let empty = Rc::new(OwnedFd::from(empty));
    assert!(ring.finish(Instant::now()), "nothing was asked for");
    let read = ring.read(&empty, allocate(4096), 4096, 0).now_or_never();
    assert!(read.is_none(), "nothing is there");
    assert_eq!(ring.abandoned(), 1);
    assert!(!ring.finish(Instant::now()));
}
