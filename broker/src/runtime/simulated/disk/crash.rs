//! What a node's death leaves on its disk.

use super::State;
use super::inode::Luck;
use crate::runtime::simulated::Death;

/// Reduces the disk to what is left.
pub(super) fn crash(state: &mut State, death: Death) {
    let mut ids: Vec<_> = state.inodes.keys().copied().collect();
    ids.sort_unstable();
    match death {
        Death::Killed => {
            for id in ids {
                let inode = state.inodes.get_mut(&id).expect("listed above");
                inode.survive_kill(&mut state.rng);
            }
        }
        Death::PowerCut => {
            state.names.survive_power_cut(&mut state.rng);
            let luck = Luck::draw(&mut state.rng);
            for id in ids {
                if state.names.is_linked(id) {
                    let inode = state.inodes.get_mut(&id).expect("listed above");
                    inode.survive_power_cut(luck, &mut state.rng);
                } else {
                    state.inodes.remove(&id);
                }
            }
        }
    }
}
