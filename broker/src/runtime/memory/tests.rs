//! Files in memory keep the promises of files.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use crate::runtime::buffer::allocate;
use crate::runtime::executor::{ExecutorConfig, Files, start};
use crate::runtime::file::{FileAgent, LogFile, self_test};

#[test]
fn executors_with_one_disk_share_its_files() {
    let config = ExecutorConfig {
        files: Files::Memory(Arc::default()),
        ..ExecutorConfig::system("memory")
    };
    let other = ExecutorConfig {
        name: "other".to_owned(),
        ..config.clone()
    };
    let write = || async {
        let agent = FileAgent::start()?;
        agent.create_dir("/journals").await?;
        self_test("/journals").await?;
        agent.create_zeroed("/journals/a", 1 << 20, None).await?;
        let file = LogFile::open("/journals/a", true).await?;
        let mut page = allocate(4096);
        page.fill(5);
        let page = Rc::new(page);
        file.write(Rc::clone(&page), 4096, 8192).await?;
        file.flush().await?;
        file.write_dsync(page, 4096, 0).await
    };
    let read = || async {
        let agent = FileAgent::start()?;
        agent.rename("/journals/a", "/journals/b").await?;
        let absent = LogFile::open("/journals/a", false).await;
        let absent = absent.expect_err("it has another name").to_string();
        assert!(absent.starts_with("open /journals/a: "), "{absent}");
        let file = LogFile::open("/journals/b", false).await?;
        let pages = file.read(0, 3 * 4096).await?;
        let at_end = file.read((1 << 20) - 4096, 8192).await?;
        Ok::<_, io::Error>((pages[0], pages[4096], pages[8192], at_end.len()))
    };
    let thread = start(config, write).expect("an executor starts");
    let wrote = thread.join().expect("no panic").expect("no error");
    wrote.expect("files in memory can be written");
    let thread = start(other, read).expect("an executor starts");
    let read = thread.join().expect("no panic").expect("no error");
    assert_eq!(read.expect("they can be read"), (5, 0, 5, 4096));
}
