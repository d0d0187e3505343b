"""systemd as the daemon's keeper: the unit files rrd.service and rrd.socket, and both sides of a service."""
