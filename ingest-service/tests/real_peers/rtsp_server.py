"""An RTSP server for tests: /h264 and /jpeg, with a login where one is given.

Usage: rtsp_server.py PORT [basic|digest USER PASSWORD]
Prints "ready", then "teardown" for each client that says so.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer

SIZE = "video/x-raw,format=I420,width=320,height=240,framerate=25/1"
STREAMS = {
    "/h264": "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=25 ! rtph264pay name=pay0",
    "/jpeg": "jpegenc ! rtpjpegpay name=pay0",
}


def say(line):
    print(line, flush=True)


def main(port, *login):
    Gst.init(None)
    if not all(Gst.ElementFactory.find(name) for name in ("x264enc", "jpegenc", "rtpjpegpay")):
        sys.exit("gstreamer1.0-plugins-good or -ugly is missing")
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    token = GstRtspServer.RTSPToken()
    if login:
        kind, user, password = login
        token.set_string("media.factory.role", "viewer")
        auth = GstRtspServer.RTSPAuth()
        if kind == "basic":
            auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
        else:
            auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
            auth.add_digest(user, password, token)
        server.set_auth(auth)
    for path, encode in STREAMS.items():
        factory = GstRtspServer.RTSPMediaFactory()
        factory.set_launch(f"( videotestsrc is-live=true pattern=ball ! {SIZE} ! {encode} )")
        factory.set_shared(True)
        if login:
            role = GstRtspServer.RTSPPermissions()
            role.add_permission_for_role("viewer", "media.factory.access", True)
            role.add_permission_for_role("viewer", "media.factory.construct", True)
            factory.set_permissions(role)
        server.get_mount_points().add_factory(path, factory)
    server.connect("client-connected", lambda _, client: client.connect("teardown-request", lambda *_: say("teardown")))
    if server.attach(None) == 0:
        sys.exit(f"port {port} cannot be bound")
    say("ready")
    GLib.MainLoop().run()


if __name__ == "__main__":
    main(*sys.argv[1:])
