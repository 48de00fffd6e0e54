//! At which address others reach this machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};

use sqlx::postgres::PgConnectOptions;

/// The address from which this machine goes to the database: others that go there too most likely reach it.
///
/// `None` when the database's name has no address; the agent then works alone.
pub(super) fn towards(database_url: &str) -> Option<IpAddr> {
    let options: PgConnectOptions = database_url.parse().ok()?;
    if options.get_socket().is_some() || options.get_host().starts_with('/') {
        return Some(Ipv4Addr::LOCALHOST.into());
    }
    (options.get_host(), options.get_port())
        .to_socket_addrs()
        .ok()?
        .find_map(|database| from_here(database).ok())
}

/// Connecting a datagram socket sends nothing: the kernel only chooses the way.
fn from_here(to: SocketAddr) -> std::io::Result<IpAddr> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to)?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_on_this_machine_is_reached_by_loopback() {
        let loopback = Some(Ipv4Addr::LOCALHOST.into());
        assert_eq!(towards("postgres://postgres@127.0.0.1:5/postgres"), loopback);
        assert_eq!(towards("postgres://postgres@localhost/postgres?host=%2Ftmp%2Fsocket"), loopback);
        assert_eq!(towards("no address"), None);
    }
}
