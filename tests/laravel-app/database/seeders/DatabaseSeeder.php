<?php

namespace Database\Seeders;

use App\Models\Job;
use App\Models\User;
use Illuminate\Database\Seeder;
use Illuminate\Support\Facades\Hash;

class DatabaseSeeder extends Seeder
{
    /**
     * Four users, all with the password "password" and the token "token-FIRSTNAME".
     */
    public function run()
    {
        foreach ([
            1 => ['John', 'Doe', false],
            2 => ['Jane', 'Roe', false],
            3 => ['Ada', 'Min', true],
            4 => ['Zoë', 'Žižek 李', false],
        ] as $id => [$first, $last, $admin]) {
            $key = ['', 'john', 'jane', 'ada', 'zoe'][$id];
            User::create([
                'id' => $id,
                'first_name' => $first,
                'last_name' => $last,
                'email' => $key.'@example.com',
                'password' => Hash::make('password'),
                'avatar' => "https://example.com/avatars/$id.jpg",
                'is_admin' => $admin,
                'api_token' => 'token-'.$key,
            ]);
        }

        Job::create(['id' => 1, 'title' => 'Paint the fence', 'user_id' => 1, 'assigned_to' => 2]);
        Job::create(['id' => 2, 'title' => 'Walk the dog', 'user_id' => 2, 'assigned_to' => null]);
    }
}
