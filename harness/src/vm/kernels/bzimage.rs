//! What a bootable x86 image says of itself (`Documentation/arch/x86/boot.rst` of the kernel).

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::KernelError;

/// Where the header's signature stands, and the pointer to the release's text; both little-endian.
const SIGNATURE: usize = 0x202;
const VERSION: usize = 0x20e;
/// The pointer counts from the end of the boot sector.
const SECTOR: usize = 0x200;
/// The set-up code, with the release in it, is at most 64 sectors long.
const HEAD: u64 = 65 * SECTOR as u64;

/// Release of the kernel in a bzImage, as `uname -r` will print it.
///
/// # Errors
/// [`KernelError::Read`]; [`KernelError::NoImage`] if it is not a bzImage.
pub fn release(image: &Path) -> Result<String, KernelError> {
    let mut head = Vec::new();
    let mut file = File::open(image).map_err(KernelError::reading(image))?.take(HEAD);
    file.read_to_end(&mut head).map_err(KernelError::reading(image))?;
    release_in(&head).ok_or_else(|| KernelError::NoImage {
        origin: image.display().to_string(),
        reason: "it is not a bzImage for x86 that names its release".to_owned(),
    })
}

fn release_in(head: &[u8]) -> Option<String> {
    if head.get(SIGNATURE..SIGNATURE + 4)? != b"HdrS" {
        return None;
    }
    let pointer = head.get(VERSION..VERSION + 2)?;
    let start = usize::from(u16::from_le_bytes([pointer[0], pointer[1]])) + SECTOR;
    let text = head.get(start..)?;
    let end = text.iter().position(|byte| *byte == 0 || byte.is_ascii_whitespace())?;
    let release = std::str::from_utf8(&text[..end]).ok()?;
    // It becomes a file name.
    let fits = |c: char| c.is_ascii_alphanumeric() || ".-+_~".contains(c);
    (release.starts_with(|c: char| c.is_ascii_digit()) && release.chars().all(fits)).then(|| release.to_owned())
}

/// The smallest image that names `release`.
#[cfg(test)]
pub fn image_of(release: &str) -> Vec<u8> {
    let mut image = vec![0; 0x300];
    image[SIGNATURE..SIGNATURE + 4].copy_from_slice(b"HdrS");
    image[VERSION] = 0x80;
    image.splice(0x280..0x280, format!("{release} (builder) #1 SMP\0").into_bytes());
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_read_and_what_is_no_image_refused() {
        assert_eq!(release_in(&image_of("6.12.9+deb13-cloud-amd64")).as_deref(), Some("6.12.9+deb13-cloud-amd64"));
        assert_eq!(release_in(&image_of("../../etc")), None);
        assert_eq!(release_in(b"\x7fELF"), None);
        let mut beyond = image_of("6.1.0");
        beyond[VERSION + 1] = 0xff;
        assert_eq!(release_in(&beyond), None);
        assert_eq!(release_in(&image_of("6.1.0")[..0x283]), None, "a cut image has no end of text");
    }
}
