/* A bare libpcap loop: fetches every record and looks at none. Prints how many there were. */

#include <pcap/pcap.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    char problem[PCAP_ERRBUF_SIZE];
    struct pcap_pkthdr *header;
    const u_char *data;
    unsigned long packets = 0;
    pcap_t *capture = argc == 2 ? pcap_open_offline(argv[1], problem) : NULL;

    if (!capture)
        return 1;
    while (pcap_next_ex(capture, &header, &data) == 1)
        packets++;
    pcap_close(capture);
    printf("%lu\n", packets);
    return 0;
}
