/* libnids with checksums on: both ends of every connection, streams put together. Prints how many
 * connections were established and how many bytes their streams had. */

#include <netinet/in.h>
#include <stdio.h>

#include <nids.h>

static unsigned long established, delivered;

static void on_tcp(struct tcp_stream *stream, void **unused)
{
    (void)unused;
    switch (stream->nids_state) {
    case NIDS_JUST_EST:
        established++;
        stream->client.collect = 1;
        stream->server.collect = 1;
        break;
    case NIDS_DATA:
        delivered += (unsigned)stream->client.count_new + (unsigned)stream->server.count_new;
        break;
    default:
        break;
    }
}

static void silent(int type, int number, struct ip *header, void *data)
{
    (void)type, (void)number, (void)header, (void)data;
}

int main(int argc, char **argv)
{
    struct nids_chksum_ctl verify_all = {.netaddr = 0, .mask = 0, .action = NIDS_DO_CHKSUM};

    if (argc != 2)
        return 1;
    nids_params.filename = argv[1];
    nids_params.n_tcp_streams = 1 << 18;
    nids_params.scan_num_hosts = 0; /* no detection of port scans */
    nids_params.tcp_workarounds = 1;
    nids_params.syslog = silent;
    if (!nids_init()) {
        fprintf(stderr, "%s\n", nids_errbuf);
        return 1;
    }
    nids_register_chksum_ctl(&verify_all, 1);
    nids_register_tcp(on_tcp);
    nids_run();
    printf("%lu %lu\n", established, delivered);
    return 0;
}
