//! Journals of random groups, crashed and damaged at random, against the rule in its plainest form.

use proptest::prelude::*;

use super::image::{Image, SEGMENT_BYTES, Written};
use super::*;
use crate::layout::to_u32;

/// What befalls a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Intact,
    /// Nothing in it can be believed.
    HeaderFlipped,
    /// Its header is good, its entries are not.
    EntryFlipped,
    /// Only a batch is damaged.
    BodyFlipped,
    /// It never reached the disk.
    Dropped,
    /// Its last page cannot be read.
    Unreadable,
}

impl Fate {
    /// Whether the block's header is still valid, so that its known-flushed position counts.
    fn header_is_valid(self) -> bool {
        matches!(self, Self::Intact | Self::EntryFlipped | Self::BodyFlipped)
    }
}

#[derive(Clone, Debug)]
struct Plan {
    groups: Vec<Group>,
    /// Whether the last group was flushed before the crash.
    last_is_flushed: bool,
    ledger: Ledger,
    /// For each block, in order; cycled.
    fates: Vec<Fate>,
    /// Damage is rare, so that most of the journal is there.
    damage_every: usize,
}

#[derive(Clone, Debug)]
struct Group {
    blocks: Vec<usize>,
    roll_first: bool,
}

#[derive(Clone, Copy, Debug)]
enum Ledger {
    None,
    /// It says that so many groups before the last flushed one are flushed.
    Behind(usize),
}

fn plan() -> impl Strategy<Value = Plan> {
    let size = prop_oneof![
        6 => Just(100usize), 3 => 1_000usize..20_000, 1 => Just(300_000usize)
    ];
    let group = (
        proptest::collection::vec(size, 1..5),
        prop::bool::weighted(0.1),
    )
        .prop_map(|(blocks, roll_first)| Group { blocks, roll_first });
    let ledger = prop_oneof![
        Just(Ledger::None),
        Just(Ledger::Behind(0)),
        (1usize..5).prop_map(Ledger::Behind)
    ];
    let fate = prop_oneof![
        2 => Just(Fate::HeaderFlipped),
        1 => Just(Fate::EntryFlipped),
        2 => Just(Fate::BodyFlipped),
        1 => Just(Fate::Dropped),
        1 => Just(Fate::Unreadable),
    ];
    let groups = proptest::collection::vec(group, 1..10);
    let fates = proptest::collection::vec(fate, 40);
    (groups, any::<bool>(), ledger, fates, 2usize..30).prop_map(
        |(groups, last_is_flushed, ledger, fates, damage_every)| Plan {
            groups,
            last_is_flushed,
            ledger,
            fates,
            damage_every,
        },
    )
}

/// A block with all that the rule needs to know of it.
#[derive(Clone, Copy, Debug)]
struct Judged {
    block: Written,
    group_start: JournalPos,
    flushed: bool,
    fate: Fate,
}

impl Judged {
    /// Whether the scan visits it when it is below F.
    fn counts_below(&self) -> bool {
        matches!(self.fate, Fate::Intact | Fate::BodyFlipped)
    }
}

fn build(plan: &Plan) -> (Image, Vec<Judged>) {
    let mut image = Image::new();
    let mut blocks = Vec::new();
    let mut ends = Vec::new();
    for (index, group) in plan.groups.iter().enumerate() {
        let bytes: u32 = group.blocks.iter().map(|bytes| to_u32(bytes + 5_000)).sum();
        if group.roll_first || image.end.offset + bytes > SEGMENT_BYTES {
            image.roll();
        }
        let group_start = image.end;
        let flushed = index + 1 < plan.groups.len() || plan.last_is_flushed;
        blocks.extend(
            image
                .write_group(&group.blocks)
                .into_iter()
                .map(|block| Judged {
                    block,
                    group_start,
                    flushed,
                    fate: Fate::Intact,
                }),
        );
        if flushed {
            ends.push(image.end);
        }
    }
    if let Ledger::Behind(behind) = plan.ledger
        && let Some(end) = ends.len().checked_sub(behind + 1).map(|index| ends[index])
    {
        image.set_ledger(end);
    }
    let damaged = blocks.iter_mut().rev().step_by(plan.damage_every);
    for (judged, fate) in damaged.zip(&plan.fates) {
        // A flushed block cannot be missing, but a lost write looks just like that.
        judged.fate = *fate;
        apply(&mut image, &judged.block, *fate);
    }
    (image, blocks)
}

fn apply(image: &mut Image, block: &Written, fate: Fate) {
    match fate {
        Fate::Intact => {}
        Fate::HeaderFlipped => image.flip(block, IN_BLOCK_HEADER),
        Fate::EntryFlipped => image.flip(block, IN_BATCH_HEADER),
        Fate::BodyFlipped => image.flip(block, IN_BATCH_BODY),
        Fate::Dropped => image.drop_block(block),
        Fate::Unreadable => {
            image
                .unreadable
                .push((block.at.segment.0, block.end() - 1, block.end()));
        }
    }
}

/// The rule, block by block: which are visited, and where the journal is cut.
fn expected(image: &Image, blocks: &[Judged]) -> (Vec<u64>, Option<JournalPos>) {
    let newest = image.end.segment;
    let ledger = image
        .ledger
        .map_or(JournalPos::default(), |slot| slot.flushed);
    let mut kept = Vec::new();
    for (index, judged) in blocks.iter().enumerate() {
        let start = judged.block.at.start();
        let ahead = blocks[index + 1..]
            .iter()
            .filter(|it| it.fate.header_is_valid());
        let known = ahead.map(|it| it.group_start).max().unwrap_or_default();
        let is_below = start.segment < newest || start < ledger.max(known);
        match judged.fate {
            Fate::Intact => kept.push(judged.block.lsn),
            _ if !is_below => return (kept, Some(start)),
            _ if judged.counts_below() => kept.push(judged.block.lsn),
            _ => {}
        }
    }
    (kept, None)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_rule_holds_for_any_crash_and_damage(plan in plan()) {
        let (mut image, blocks) = build(&plan);
        let scanned = image.scan();
        let (kept, cut) = expected(&image, &blocks);
        prop_assert_eq!(&scanned.lsns, &kept);
        if let Some(cut) = cut {
            prop_assert_eq!(scanned.outcome.end, cut);
            let torn = scanned.outcome.torn.map(|torn| torn.at);
            let trace = blocks.iter().any(|it| it.block.at.start() >= cut
                && it.fate != Fate::Dropped);
            prop_assert!(torn == Some(cut) || !trace);
        } else {
            prop_assert_eq!(scanned.outcome.end, image.end);
        }

        // With an exact ledger, what was flushed and is intact is never lost.
        if matches!(plan.ledger, Ledger::Behind(0)) {
            for judged in &blocks {
                if judged.flushed && judged.fate == Fate::Intact {
                    prop_assert!(scanned.lsns.contains(&judged.block.lsn));
                }
            }
        }
        // Each flushed block that does not count is inside a named range.
        for judged in &blocks {
            let (lsn, start) = (judged.block.lsn, judged.block.at.start());
            if start < scanned.outcome.end && !scanned.lsns.contains(&lsn) {
                let named = scanned.outcome.corrupt.iter().any(|range| {
                    range.segment == start.segment
                        && range.start <= start.offset
                        && judged.block.end() <= range.end
                });
                prop_assert!(named, "{judged:?} is in no range");
            }
        }

        // Life goes on in a new segment, and the next recovery agrees with this one.
        image.reopen(&scanned.outcome);
        let written: Vec<_> =
            (0..3).flat_map(|_| image.write_group(&[100, 2_000])).map(|it| it.lsn).collect();
        let again = image.scan();
        let both: Vec<u64> = scanned.lsns.into_iter().chain(written).collect();
        prop_assert_eq!(again.lsns, both);
        prop_assert_eq!(again.outcome.torn, None);
        prop_assert_eq!(again.outcome.end, image.end);
    }
}
