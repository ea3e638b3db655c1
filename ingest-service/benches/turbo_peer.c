/* The same work by libjpeg-turbo, for the bench beside this file: decodes at a
 * quarter or half, brings the planes to size and encodes them, on one thread.
 *
 *     cc -O3 -o turbo_peer turbo_peer.c -lturbojpeg
 *     turbo_peer WIDTH HEIGHT N/8 QUALITY rgb|planes REPEATS FILE...
 *
 * Prints microseconds per frame for each repeat. `planes` goes without RGB,
 * `rgb` is what the usual calls do. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <turbojpeg.h>

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static void need(int ok, const char *what) {
    if (!ok) {
        fprintf(stderr, "%s: %s\n", what, tjGetErrorStr());
        exit(1);
    }
}

/* Bilinear, in sixteenths of 16 bits, `channels` bytes a pixel. */
static void resize(const unsigned char *from, int fw, int fh, unsigned char *to, int tw, int th, int channels) {
    for (int y = 0; y < th; y++) {
        int sy = (int)(((2 * y + 1) * (long)fh * 128 / th) - 128);
        if (sy < 0) sy = 0;
        int y0 = sy >> 8, y1 = y0 + 1 < fh ? y0 + 1 : y0, wy = sy & 255;
        for (int x = 0; x < tw; x++) {
            int sx = (int)(((2 * x + 1) * (long)fw * 128 / tw) - 128);
            if (sx < 0) sx = 0;
            int x0 = sx >> 8, x1 = x0 + 1 < fw ? x0 + 1 : x0, wx = sx & 255;
            for (int c = 0; c < channels; c++) {
                int top = from[(y0 * fw + x0) * channels + c] * (256 - wx) + from[(y0 * fw + x1) * channels + c] * wx;
                int low = from[(y1 * fw + x0) * channels + c] * (256 - wx) + from[(y1 * fw + x1) * channels + c] * wx;
                to[(y * tw + x) * channels + c] = (top * (256 - wy) + low * wy) >> 16;
            }
        }
    }
}

int main(int argc, char **argv) {
    if (argc < 8) return 2;
    int tw = atoi(argv[1]), th = atoi(argv[2]), eighths = atoi(argv[3]), quality = atoi(argv[4]);
    int planar = !strcmp(argv[5], "planes"), repeats = atoi(argv[6]), files = argc - 7;
    unsigned char **jpegs = calloc(files, sizeof *jpegs);
    unsigned long *sizes = calloc(files, sizeof *sizes);
    for (int i = 0; i < files; i++) {
        FILE *f = fopen(argv[7 + i], "rb");
        need(f != NULL, argv[7 + i]);
        fseek(f, 0, SEEK_END);
        sizes[i] = ftell(f);
        rewind(f);
        jpegs[i] = malloc(sizes[i]);
        need(fread(jpegs[i], 1, sizes[i], f) == sizes[i], "read");
        fclose(f);
    }
    tjhandle in = tjInitDecompress(), out = tjInitCompress();
    unsigned char *small = malloc(3 * 1920 * 1080), *sized = malloc(3 * 1920 * 1080), *jpeg = tjAlloc(1 << 20);
    for (int r = 0; r < repeats; r++) {
        double start = now_us();
        for (int i = 0; i < files; i++) {
            int w, h, subsampling, space;
            need(!tjDecompressHeader3(in, jpegs[i], sizes[i], &w, &h, &subsampling, &space), "header");
            tjscalingfactor scale = {eighths, 8};
            int sw = TJSCALED(w, scale), sh = TJSCALED(h, scale);
            unsigned long bytes = 1 << 20;
            if (planar) {
                int cw = tjPlaneWidth(1, sw, subsampling), ch = tjPlaneHeight(1, sh, subsampling);
                unsigned char *from[3] = {small, small + sw * sh, small + sw * sh + cw * ch}, *to[3];
                need(!tjDecompressToYUVPlanes(in, jpegs[i], sizes[i], from, sw, NULL, sh, 0), "decode");
                int tcw = (tw + 1) / 2, tch = (th + 1) / 2;
                to[0] = sized, to[1] = sized + tw * th, to[2] = to[1] + tcw * tch;
                for (int c = 0; c < 3; c++) {
                    int fw = c ? cw : sw, fh = c ? ch : sh, w2 = c ? tcw : tw, h2 = c ? tch : th;
                    if (fw == w2 && fh == h2) to[c] = from[c];
                    else resize(from[c], fw, fh, to[c], w2, h2, 1);
                }
                need(!tjCompressFromYUVPlanes(out, (const unsigned char **)to, tw, NULL, th, TJSAMP_420, &jpeg, &bytes,
                                              quality, TJFLAG_NOREALLOC), "encode");
            } else {
                unsigned char *pixels = small;
                need(!tjDecompress2(in, jpegs[i], sizes[i], small, sw, 0, sh, TJPF_RGB, 0), "decode");
                if (sw != tw || sh != th) resize(small, sw, sh, pixels = sized, tw, th, 3);
                need(!tjCompress2(out, pixels, tw, 0, th, TJPF_RGB, &jpeg, &bytes, TJSAMP_420, quality,
                                  TJFLAG_NOREALLOC), "encode");
            }
        }
        printf("%.2f\n", (now_us() - start) / files);
    }
    return 0;
}
