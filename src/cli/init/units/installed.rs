//! The units, users, folders and the polkit rule of a server. The Debian package has them; elsewhere `claviger init --keeper` makes them,
//! below /etc.

use std::path::Path;

use super::{CreatedFiles, systemctl::run};
use crate::cli::failure::Failure;

/// The program that the packaged units start.
const PACKAGED_PROGRAM: &str = "/usr/bin/claviger";

/// The folder of an administrator's polkit rules. It is there if polkit is.
const POLKIT: &str = "/etc/polkit-1/rules.d";

/// The files of the package, each with its text. Made without the package, each is below /etc instead of /usr/lib or
/// /usr/share.
const FILES: [(&str, &str); 6] = [
    ("/usr/lib/sysusers.d/claviger.conf", include_str!("../../../../packaging/systemd/sysusers.conf")),
    ("/usr/lib/tmpfiles.d/claviger.conf", include_str!("../../../../packaging/systemd/tmpfiles.conf")),
    ("/usr/lib/systemd/system/claviger.service", include_str!("../../../../packaging/systemd/claviger.service")),
    (
        "/usr/lib/systemd/system/claviger-keeper@.service",
        include_str!("../../../../packaging/systemd/claviger-keeper@.service"),
    ),
    (
        "/usr/lib/systemd/system/claviger-keeper.target",
        include_str!("../../../../packaging/systemd/claviger-keeper.target"),
    ),
    ("/usr/share/polkit-1/rules.d/50-claviger.rules", include_str!("../../../../packaging/polkit.rules")),
];

/// Makes what is missing. The units start `program`.
pub fn complete(program: &Path, files: &mut CreatedFiles) -> Result<(), Failure> {
    for (by_package, text) in FILES {
        let own = by_package.replacen("/usr/lib", "/etc", 1).replacen("/usr/share", "/etc", 1);
        let own = Path::new(&own);
        let folder = own.parent().unwrap_or(own);
        if Path::new(by_package).exists() || own.exists() || folder == Path::new(POLKIT) && !folder.exists() {
            continue;
        }
        files.make_folder(folder, 0o755, false)?;
        files.write(own, 0o644, &text.replace(PACKAGED_PROGRAM, &program.display().to_string()))?;
    }
    // Both do nothing if the package has done it.
    run("systemd-sysusers", &["claviger.conf"])?;
    run("systemd-tmpfiles", &["--create", "claviger.conf"])
}
